"""Reads the audit log."""

from collections.abc import Collection

from fleet.apps.audit.models import Entry
from fleet.apps.audit.records import BriefEntry, EntryRecord


def entries(*, subject: str = "", before_id: int | None = None, limit: int = 100) -> tuple[EntryRecord, ...]:
    """At most `limit` entries older than `before_id`, of one subject if it is given."""
    rows = Entry.objects.order_by("-id")
    if subject:
        rows = rows.filter(subject=subject)
    if before_id is not None:
        rows = rows.filter(id__lt=before_id)
    return tuple(_record(row) for row in rows[:limit])


def brief_after(*, entry_id: int, limit: int) -> tuple[BriefEntry, ...]:
    """At most `limit` entries younger than that one, the oldest first, without what they say."""
    rows = Entry.objects.filter(id__gt=entry_id).order_by("id").values_list("id", "at", "action")
    return tuple(BriefEntry(*row) for row in rows[:limit])


def by_ids(ids: Collection[int]) -> tuple[EntryRecord, ...]:
    """These entries, the oldest first."""
    return tuple(_record(row) for row in Entry.objects.filter(pk__in=ids).order_by("id")) if ids else ()


def newest_id() -> int:
    """The id of the newest entry; 0 without one."""
    return Entry.objects.order_by("-id").values_list("id", flat=True).first() or 0


def _record(row: Entry) -> EntryRecord:
    return EntryRecord(id=row.pk, at=row.at, actor=row.actor, action=row.action, subject=row.subject, detail=row.detail)
