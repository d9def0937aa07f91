"""Whose silence is compared: devices of both sides that were there before a phase began.

A sample on either side, taken by a job once per phase, because it reads the fleet; a look then reads the sample alone. A
device is in it if it was heard of within the policy's window before the phase, or since: only a device that is heard of can
be treated, so that what the treatment does to a device cannot take it out of the sample.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import Count, Q

from device_client.wire.bucketing import BUCKETS, bucket
from fleet.apps.devices import selectors as devices
from fleet.apps.devices.records import DeviceChoice
from fleet.apps.jobs import services as jobs
from fleet.apps.rollouts.models import PhaseRun, Rollout, Watched
from fleet.apps.rollouts.population import concerned
from fleet.apps.rollouts.reaches import reach_of
from fleet.domain.measurements import Side, WatchCount
from fleet.domain.policy import RolloutPolicy
from fleet.domain.reach import Reach
from fleet.domain.rollout_states import OFFERING
from fleet.domain.strata import has_control

JOB_KIND: Final = "watch"
# So many tell a share of silent devices to about two points.
DEVICES_PER_SIDE: Final = 2_000


def ask(row: Rollout, policy: RolloutPolicy, phase: int, now: datetime) -> None:
    """Queue the choice of devices, if the phase has a control to compare with, by the newest count of the population."""
    population = PhaseRun.objects.filter(rollout=row, counted_at__isnull=False).order_by("index").last()
    devices = 0 if population is None else population.eligible
    if has_control(policy.phases[phase].share, policy.control_share, devices):
        payload = {"rollout": row.pk, "phase": phase}
        jobs.enqueue(kind=JOB_KIND, key=f"{row.pk}-{phase}", payload=payload, now=now)


def begin(payload: Mapping[str, object], now: datetime) -> None:
    """The work of a `watch` job. A rollout that has moved on is left alone; what nobody looks at any more goes."""
    Watched.objects.exclude(rollout__state__in=OFFERING).delete()
    row = Rollout.objects.filter(
        pk=str(payload["rollout"]), state__in=OFFERING, phase=int(str(payload["phase"]))
    ).first()
    if row is None:
        return
    policy = RolloutPolicy.parse(row.policy)
    reach, since = reach_of(row, policy, row.phase), row.phase_started_at or now
    chosen = [
        Watched(rollout=row, phase=row.phase, device_id=device_id, hardware_class=name, side=side.value)
        for side, choice, start, end in _spans(reach, concerned(row.model_id, policy, since, row.rule_id))
        for device_id, name in devices.placed(
            choice=choice, seed=row.seed, start=start, end=end, limit=DEVICES_PER_SIDE
        )
        if side is Side.TREATED or reach.compares(device_id, name, bucket(row.seed, device_id))
    ]
    with transaction.atomic():
        Watched.objects.filter(rollout=row).delete()
        Watched.objects.bulk_create(chosen, batch_size=500)


def _spans(reach: Reach, choice: DeviceChoice) -> Iterator[tuple[Side, DeviceChoice, int, int]]:
    """Where the two sides are: the ranges of all, and what single classes have beyond them. Named devices are left out."""
    yield Side.TREATED, choice, 0, reach.treated_end
    for name, end in reach.class_ends.items():
        yield Side.TREATED, replace(choice, hardware_classes=(name,)), reach.treated_end, end
    yield Side.CONTROL, choice, reach.control_start, BUCKETS


def counts(row: Rollout, *, now: datetime, grace_s: float) -> tuple[WatchCount, ...]:
    """How many of the sample there are by class and side, and how many have been silent for `grace_s` or more."""
    silent = Q(device__last_seen_at__isnull=True) | Q(device__last_seen_at__lt=now - timedelta(seconds=grace_s))
    rows = Watched.objects.filter(rollout=row, phase=row.phase).order_by("hardware_class", "side")
    found = rows.values_list("hardware_class", "side").annotate(n=Count("pk"), silent=Count("pk", filter=silent))
    return tuple(WatchCount(name, Side(side), n, quiet) for name, side, n, quiet in found)
