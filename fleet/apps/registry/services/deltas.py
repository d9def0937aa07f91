"""Deltas between weights files: which are asked for, and what becomes of those that nobody makes. Knows groups, never devices.

What is worth making is `fleet.domain.delta_plan`'s to say. A row that is queued has an open job, always: both are written
together, and a row whose job was given up is settled here.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from django.db import transaction

from device_client.wire.bundles import Manifest
from device_client.wire.delta import Codec
from fleet.apps.jobs import selectors as job_selectors
from fleet.apps.jobs import services as jobs
from fleet.apps.registry.models import Delta, Variant
from fleet.apps.registry.selectors import BUILD_JOB_KIND, PLAN_JOB_KIND, build_job_key
from fleet.domain import delta_plan
from fleet.domain.delta_plan import Budget, Group, LeftOut, Wanted
from fleet.domain.delta_states import SETTLED, DeltaEvent, DeltaState, next_state
from fleet.domain.facts import Build

# Planning is short and decides what the worker does next; builds are ordered by the devices that depend on them.
PLAN_PRIORITY: Final = 2_000_000
MAX_PRIORITY: Final = 1_000_000
# With the pauses between them, a worker's full disk has four minutes to find room.
BUILD_ATTEMPTS: Final = 8
MAX_DETAIL_CHARS: Final = 512


def request_plan(*, model: str, version_id: int, now: datetime) -> None:
    """Have a worker count the devices and ask for the patches that are worth it, before this version is offered."""
    jobs.enqueue(
        kind=PLAN_JOB_KIND,
        key=str(version_id),
        payload={"model": model, "version_id": version_id},
        now=now,
        priority=PLAN_PRIORITY,
    )


def request_deltas(*, version_id: int, groups: Iterable[Group], budget: Budget, now: datetime) -> int:
    """Queue the patches to this version that are worth making; returns how many. What is left out is recorded with its reason.

    Old files are those of the same model, of any version and variant. Asking again asks only for what is new, has failed
    or has expired.
    """
    rows = list(Variant.objects.filter(version_id=version_id).select_related("version"))
    if not rows:
        return 0
    builds = [Build(row.digest, Manifest.parse(bytes(row.manifest))) for row in rows]
    of_model = Variant.objects.filter(version__model_id=rows[0].version.model_id)
    sizes = dict(of_model.values_list("weights_id", "weights__length"))
    known = {
        (old, new, Codec(codec))
        for old, new, codec in Delta.objects.filter(
            new_id__in={row.weights_id for row in rows}, state__in=[state.value for state in SETTLED]
        ).values_list("old_id", "new_id", "codec")
    }
    plan = delta_plan.plan(delta_plan.demands(groups, builds), sizes, budget, known)
    for item in plan.left_out:
        _leave_out(item, now)
    return sum(_queue(item, len(plan.builds) - place, now) for place, item in enumerate(plan.builds))


def settle_abandoned(*, now: datetime) -> int:
    """Deltas that are queued although no job will make them have failed; returns how many. Safe at any time.

    A job can end without a word: its worker died with the last attempt, or the work raised what nobody foresaw.
    """
    queued = Delta.objects.filter(state=DeltaState.QUEUED.value)
    keys = {build_job_key(row.old_id, row.new_id, row.codec): row.pk for row in queued}
    if not keys:
        return 0
    reasons = job_selectors.given_up(kind=BUILD_JOB_KIND, keys=keys)
    return sum(
        settle(keys[key], DeltaEvent.FAIL, now, detail=reason or "its job ended without a result")
        for key, reason in reasons.items()
    )


def settle(
    pk: int,
    event: DeltaEvent,
    now: datetime,
    *,
    detail: str = "",
    patch: str | None = None,
    made_bytes: int | None = None,
    build_s: float | None = None,
    cpu_s: float | None = None,
) -> bool:
    """End a build, if it is still awaited; False, and nothing changed, if it is not."""
    with transaction.atomic():
        row = Delta.objects.select_for_update().get(pk=pk)
        if row.state != DeltaState.QUEUED.value:
            return False
        row.state = next_state(DeltaState(row.state), event).value
        row.detail, row.patch_id, row.made_bytes = detail[:MAX_DETAIL_CHARS], patch, made_bytes
        row.build_s, row.cpu_s, row.built_at, row.idle_since_at = build_s, cpu_s, now, None
        row.save()
    return True


def _queue(item: Wanted, place: int, now: datetime) -> bool:
    """Queue a build, `place` places before the last one; False where another request came first."""
    with transaction.atomic():
        row = _row(item, now)
        if DeltaState(row.state) in SETTLED:
            return False
        row.state = next_state(DeltaState(row.state), DeltaEvent.QUEUE).value
        row.devices, row.detail = item.devices, ""
        row.save()
        jobs.enqueue(
            kind=BUILD_JOB_KIND,
            key=build_job_key(item.old_sha256, item.new_sha256, item.codec.value),
            payload={"old": item.old_sha256, "new": item.new_sha256, "codec": item.codec.value},
            now=now,
            priority=min(place, MAX_PRIORITY),
            max_attempts=BUILD_ATTEMPTS,
        )
    return True


def _leave_out(item: LeftOut, now: datetime) -> None:
    with transaction.atomic():
        row = _row(item.wanted, now)
        if DeltaState(row.state) in SETTLED:
            return
        row.state = next_state(DeltaState(row.state), DeltaEvent.LEAVE_OUT).value
        row.devices, row.detail = item.wanted.devices, item.reason[:MAX_DETAIL_CHARS]
        row.save()


def _row(item: Wanted, now: datetime) -> Delta:
    """The pair's row, locked; one that is new here starts as one that was left out, and is not stored yet."""
    key = {"old_id": item.old_sha256, "new_id": item.new_sha256, "codec": item.codec.value}
    found = Delta.objects.select_for_update().filter(**key).first()
    return found or Delta(**key, created_at=now, state=DeltaState.LEFT_OUT.value)
