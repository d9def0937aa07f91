"""Work as rows: queued once per key, claimed by one worker at a time, given back when its worker dies.

A claim raises the row's fence; what a worker says about a job counts only while its fence and name are the row's, so
that a worker that lost its lease (it slept, or its machine did) changes nothing. The work itself must be safe to
repeat: a worker may die between doing it and saying so.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

from django.db import IntegrityError, connection, transaction
from django.db.models import F, Q, QuerySet

from fleet.apps.jobs.models import Job
from fleet.apps.jobs.records import JobRecord

RETRY_FIRST_S: Final = 2.0
RETRY_LONGEST_S: Final = 900.0
MAX_ERROR_CHARS: Final = 4_000
# What failed is looked at by people, later.
KEPT: Final = {Job.State.DONE: timedelta(days=7), Job.State.FAILED: timedelta(days=90)}
ROWS_PER_PURGE: Final = 2_000
PEOPLE_WAIT: Final = 1_000_000  # the priority of what somebody waits for, and what is short


def enqueue(
    *,
    kind: str,
    key: str,
    payload: Mapping[str, object],
    now: datetime,
    priority: int = 0,
    max_attempts: int = 3,
    not_before_at: datetime | None = None,
) -> int | None:
    """Queue work, due now or at `not_before_at`; returns its id.

    None if work of this kind and key is already queued or running.
    """
    try:
        with transaction.atomic():
            row = Job.objects.create(
                kind=kind,
                key=key,
                payload=dict(payload),
                priority=priority,
                max_attempts=max_attempts,
                run_after=not_before_at or now,
                created_at=now,
            )
    except IntegrityError:
        return None
    return row.pk


def claim(*, kinds: Collection[str], owner: str, lease_s: float, now: datetime) -> JobRecord | None:
    """Take the most urgent piece of work that is due, for `lease_s` seconds; None if there is none.

    PostgreSQL skips rows that another worker is claiming at this moment; SQLite lets one claim run at a time. On both,
    the row changes hands only if its fence is still the one that was read.
    """
    reap(now=now)
    due = Job.objects.filter(kind__in=kinds, state=Job.State.QUEUED, run_after__lte=now)
    # Looking costs no write lock, which on SQLite all others would have to wait for.
    if not due.exists():
        return None
    with transaction.atomic():
        if connection.features.has_select_for_update_skip_locked:
            due = due.select_for_update(skip_locked=True)
        row = due.order_by("-priority", "run_after", "id").first()
        if row is None:
            return None
        lease_until = now + timedelta(seconds=lease_s)
        taken = Job.objects.filter(pk=row.pk, state=Job.State.QUEUED, fence=row.fence).update(
            state=Job.State.RUNNING,
            attempts=F("attempts") + 1,
            fence=F("fence") + 1,
            lease_owner=owner,
            lease_until=lease_until,
        )
    if not taken:
        return None
    return JobRecord(
        id=row.pk,
        kind=row.kind,
        key=row.key,
        payload=row.payload,
        owner=owner,
        fence=row.fence + 1,
        attempts=row.attempts + 1,
        max_attempts=row.max_attempts,
        lease_until=lease_until,
    )


def extend(*, job: JobRecord, lease_s: float, now: datetime) -> bool:
    """Keep a claim for `lease_s` seconds from now; False means that it was lost and the work must stop."""
    return _holder(job).update(lease_until=now + timedelta(seconds=lease_s)) == 1


def finish(*, job: JobRecord, now: datetime) -> bool:
    """The work is done. False: the claim was lost, so nothing was changed."""
    done = _holder(job).update(state=Job.State.DONE, lease_owner="", lease_until=None, finished_at=now, error="")
    return done == 1


def fail(*, job: JobRecord, error: str, now: datetime, permanent: bool = False) -> bool:
    """The work did not succeed: queue it again after a rising pause, or give it up.

    It is given up when a retry is pointless (`permanent`) or the attempts are used up. False: the claim was lost.
    """
    text = error[-MAX_ERROR_CHARS:]
    if permanent or job.attempts >= job.max_attempts:
        lost = _holder(job).update(
            state=Job.State.FAILED, lease_owner="", lease_until=None, finished_at=now, error=text
        )
        return lost == 1
    delay_s = min(RETRY_LONGEST_S, RETRY_FIRST_S * 2.0 ** (job.attempts - 1))
    again = _holder(job).update(
        state=Job.State.QUEUED,
        lease_owner="",
        lease_until=None,
        run_after=now + timedelta(seconds=delay_s),
        error=text,
    )
    return again == 1


def give_back(*, job: JobRecord, now: datetime) -> bool:
    """Return unfinished work at once, because its worker is told to stop. The attempt does not count."""
    back = _holder(job).update(
        state=Job.State.QUEUED, attempts=F("attempts") - 1, lease_owner="", lease_until=None, run_after=now
    )
    return back == 1


def reap(*, now: datetime) -> int:
    """Take back work whose lease ran out; what has no attempts left has failed. Returns how many rows moved."""
    expired = Q(state=Job.State.RUNNING, lease_until__lt=now)
    if not Job.objects.filter(expired).exists():
        return 0
    with transaction.atomic():
        failed = Job.objects.filter(expired, attempts__gte=F("max_attempts")).update(
            state=Job.State.FAILED,
            finished_at=now,
            error="the worker's lease ran out and no attempt was left",
            lease_owner="",
            lease_until=None,
        )
        again = Job.objects.filter(expired).update(
            state=Job.State.QUEUED, run_after=now, lease_owner="", lease_until=None
        )
    return failed + again


def purge(*, now: datetime, most: int = ROWS_PER_PURGE) -> int:
    """Delete at most so many rows of each kind of end that ended long ago; returns how many went."""
    gone = 0
    for state, kept in KEPT.items():
        before = now - kept
        # A row was due before it ended, and by that there is an index.
        old = Job.objects.filter(state=state, run_after__lt=before, finished_at__lt=before)
        found = list(old.values_list("pk", flat=True)[:most])
        if found:
            gone += Job.objects.filter(pk__in=found, state=state).delete()[0]
    return gone


def _holder(job: JobRecord) -> QuerySet[Job]:
    return Job.objects.filter(pk=job.id, state=Job.State.RUNNING, fence=job.fence, lease_owner=job.owner)
