"""Reads the rows of work."""

from collections.abc import Collection, Mapping
from datetime import datetime

from django.db.models import Count, Q

from fleet.apps.jobs.models import Job
from fleet.apps.jobs.records import JobStatus


def open_keys(*, kind: str, keys: Collection[str]) -> frozenset[str]:
    """Those of `keys` for which work of this kind is queued or running."""
    rows = Job.objects.filter(kind=kind, key__in=keys, state__in=[Job.State.QUEUED, Job.State.RUNNING])
    return frozenset(rows.values_list("key", flat=True))


def awaited_keys(*, kind: str, keys: Collection[str]) -> frozenset[str]:
    """Those of `open_keys` whose work has not failed yet: what has may take many pauses to succeed, or never do."""
    rows = Job.objects.filter(kind=kind, key__in=keys, state__in=[Job.State.QUEUED, Job.State.RUNNING], error="")
    return frozenset(rows.values_list("key", flat=True))


def was_asked_for(*, kind: str, since: datetime) -> bool:
    """Whether work of this kind was queued since then, or is still to be done."""
    is_open = Q(state__in=[Job.State.QUEUED, Job.State.RUNNING])
    return Job.objects.filter(Q(created_at__gt=since) | is_open, kind=kind).exists()


def given_up(*, kind: str, keys: Collection[str]) -> Mapping[str, str]:
    """Those of `keys` for which no work of this kind is open, each with the last error or an empty string."""
    closed = set(keys) - open_keys(kind=kind, keys=keys)
    rows = Job.objects.filter(kind=kind, key__in=closed).order_by("pk").values_list("key", "error")
    return {**dict.fromkeys(sorted(closed), ""), **dict(rows)}


def counts() -> Mapping[tuple[str, str], int]:
    """How many rows there are by (kind, state)."""
    rows = Job.objects.values_list("kind", "state").annotate(n=Count("id"))
    return {(kind, state): n for kind, state, n in rows}


def jobs(*, kind: str = "", state: str = "", limit: int = 100) -> tuple[JobStatus, ...]:
    """The newest rows of work, of one kind and state if given."""
    rows = Job.objects.order_by("-id")
    if kind:
        rows = rows.filter(kind=kind)
    if state:
        rows = rows.filter(state=state)
    return tuple(
        JobStatus(
            id=row.pk,
            kind=row.kind,
            key=row.key,
            state=row.state,
            attempts=row.attempts,
            max_attempts=row.max_attempts,
            owner=row.lease_owner,
            run_after=row.run_after,
            lease_until=row.lease_until,
            error=row.error,
            created_at=row.created_at,
            finished_at=row.finished_at,
        )
        for row in rows[:limit]
    )
