"""Drops patches that nobody can use any more. What a patch was is kept as a fact; it can be built again.

A patch is of use while both its files are: run by a device, or offered to one. It is dropped only after it has been of no
use for a while, so nobody who was told of it is still fetching it; a device that comes back later takes the file.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import Q

from fleet.apps.jobs import selectors as job_selectors
from fleet.apps.jobs import services as jobs
from fleet.apps.registry.models import Delta
from fleet.apps.registry.services.delta_builds import PATCHED_BY
from fleet.apps.registry.services.uploads import discard_blobs
from fleet.domain.delta_states import DeltaEvent, DeltaState, next_state
from fleet.ports.blobs import BlobStore

REVIEW_JOB_KIND: Final = "delta-review"
REVIEW_EVERY: Final = timedelta(hours=6)


def request_review(*, now: datetime) -> None:
    """Have a worker look at all patches, unless one did lately or is about to."""
    if not job_selectors.was_asked_for(kind=REVIEW_JOB_KIND, since=now - REVIEW_EVERY):
        jobs.enqueue(kind=REVIEW_JOB_KIND, key="all", payload={}, now=now)


def review_deltas(*, in_use: Collection[str], keep: timedelta, store: BlobStore, now: datetime) -> int:
    """Drop the patches that were of no use for `keep`; returns how many. `in_use` are weights files, by their sha256.

    The row lets go of its patch before the bytes go: a process that dies in between leaves bytes behind that nothing refers
    to, which the sweep of blobs removes.
    """
    ready = Delta.objects.filter(state=DeltaState.READY.value)
    useful = Q(old_id__in=in_use, new_id__in=in_use)
    ready.filter(useful, idle_since_at__isnull=False).update(idle_since_at=None)
    ready.filter(~useful, idle_since_at=None).update(idle_since_at=now)
    patches = [_expire(pk, now) for pk in ready.filter(idle_since_at__lte=now - keep).values_list("pk", flat=True)]
    dropped = frozenset(patch for patch in patches if patch is not None)
    discard_blobs(sha256s=dropped, actor=PATCHED_BY, store=store)
    return len(dropped)


def _expire(pk: int, now: datetime) -> str | None:
    """Let go of one patch; returns its name, or None where another process did."""
    with transaction.atomic():
        row = Delta.objects.select_for_update().get(pk=pk)
        if row.state != DeltaState.READY.value:
            return None
        patch = row.patch_id
        row.state, row.patch = next_state(DeltaState(row.state), DeltaEvent.EXPIRE).value, None
        row.detail = f"of no use from {row.idle_since_at or now:%Y-%m-%d} to {now:%Y-%m-%d}"
        row.save()
    return patch
