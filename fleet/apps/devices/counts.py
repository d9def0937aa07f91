"""How many devices there are and what they run, for pages and metrics: never for a verdict.

A small fleet is counted when somebody asks. A large one is counted by a job, once a minute, and everybody is shown that count
with its moment; only before the first such count does asking cost as much as counting.
"""

from collections.abc import Mapping
from dataclasses import astuple, replace
from datetime import datetime, timedelta
from typing import Final

from fleet.apps.devices import selectors
from fleet.apps.devices.models import Device, DeviceModel, FleetCount
from fleet.apps.devices.records import DeviceChoice, DeviceCount, FleetCounts, RunningCount, RunningCounts
from fleet.apps.jobs import selectors as job_selectors
from fleet.apps.jobs import services as jobs

JOB_KIND: Final = "fleet-count"
COUNTED_AT_ONCE: Final = 20_000  # devices
EVERY: Final = timedelta(seconds=60)
AWAY_AFTER: Final = timedelta(days=7)
"""Silence after which a device counts as away: the same week after which a plan's population leaves it out."""

FLEET: Final = ""
ACTIVE: Final = "active"


def fleet(now: datetime) -> FleetCounts:
    """The active devices, those of them that are online, and those that are away."""
    row = _stored(FLEET)
    found = _count_fleet(now) if row is None else _read(row)
    active = [item for item in found if item.state == ACTIVE]
    return FleetCounts(
        sum(item.devices for item in active),
        sum(item.devices for item in active if item.online),
        sum(item.silent for item in active),
        now if row is None else row.counted_at,
    )


def matching(choice: DeviceChoice) -> int | None:
    """How many devices are chosen; None for what nobody has counted of a large fleet."""
    row = _stored(FLEET)
    if row is None:
        return selectors.count_devices(choice=choice)
    if replace(choice, hardware_class="", state="", online=None) != selectors.EVERY_DEVICE:
        return None
    return sum(
        item.devices
        for item in _read(row)
        if choice.hardware_class in ("", item.hardware_class)
        and choice.state in ("", item.state)
        and choice.online in (None, item.online)
    )


def hardware_classes() -> tuple[str, ...]:
    """The classes that devices have, in order."""
    row = _stored(FLEET)
    return selectors.hardware_classes() if row is None else tuple(sorted({item.hardware_class for item in _read(row)}))


def running(model: str, now: datetime) -> RunningCounts:
    """Active devices by the version of `model` that they attest, and hardware class. `silent` ones are away."""
    row = _stored(model)
    if row is None:
        return _count_running(model, now)
    return RunningCounts(tuple(RunningCount(*item) for item in row.counted), row.counted_at)


def ask(now: datetime) -> None:
    """Queue a count of a large fleet whose last one is old."""
    if not is_large():
        FleetCount.objects.all().delete()
    elif not job_selectors.was_asked_for(kind=JOB_KIND, since=now - EVERY):
        jobs.enqueue(kind=JOB_KIND, key="all", payload={}, now=now)


def count(_payload: Mapping[str, object], now: datetime) -> None:
    """The work of a `fleet-count` job. Models that no device runs any more are forgotten."""
    found = [list(astuple(item)) for item in _count_fleet(now)]
    rows = [FleetCount(model=FLEET, counted=found, counted_at=now)]
    models = DeviceModel.objects.order_by("model").values_list("model", flat=True).distinct()
    for model in models:
        counted = [list(astuple(item)) for item in _count_running(model, now).rows]
        rows.append(FleetCount(model=model, counted=counted, counted_at=now))
    FleetCount.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["model"], update_fields=["counted", "counted_at"]
    )
    FleetCount.objects.exclude(model__in=[row.model for row in rows]).delete()


def is_large() -> bool:
    """Whether there are more devices than are counted for a request. Costs the same however many there are."""
    return Device.objects.all()[: COUNTED_AT_ONCE + 1].count() > COUNTED_AT_ONCE


def _stored(model: str) -> FleetCount | None:
    return FleetCount.objects.filter(pk=model).first()


def _read(row: FleetCount) -> tuple[DeviceCount, ...]:
    return tuple(DeviceCount(*item) for item in row.counted)


def _count_fleet(now: datetime) -> tuple[DeviceCount, ...]:
    return selectors.device_counts(silent_since=now - AWAY_AFTER)


def _count_running(model: str, now: datetime) -> RunningCounts:
    return RunningCounts(selectors.running_counts(model, silent_since=now - AWAY_AFTER), now)
