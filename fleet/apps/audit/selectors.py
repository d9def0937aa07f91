"""Reads the audit log, newest first."""

from fleet.apps.audit.models import Entry
from fleet.apps.audit.records import EntryRecord


def entries(*, subject: str = "", before_id: int | None = None, limit: int = 100) -> tuple[EntryRecord, ...]:
    """At most `limit` entries older than `before_id`, of one subject if it is given."""
    rows = Entry.objects.order_by("-id")
    if subject:
        rows = rows.filter(subject=subject)
    if before_id is not None:
        rows = rows.filter(id__lt=before_id)
    return tuple(
        EntryRecord(id=row.pk, at=row.at, actor=row.actor, action=row.action, subject=row.subject, detail=row.detail)
        for row in rows[:limit]
    )
