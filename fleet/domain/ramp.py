"""Whom each phase of a policy reaches on a given fleet, and how many that is. Pure.

Devices come placed in their buckets. Only phases by count and phases for each hardware class ask who they are; phases
by share are the same ranges whatever the fleet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from device_client.wire.bucketing import BUCKETS, control_range, share_range
from fleet.domain.findings import Finding, Level
from fleet.domain.phases import MAX_PHASES, Phase
from fleet.domain.policy import RolloutPolicy
from fleet.domain.reach import Reach
from fleet.domain.verdicts import ClassCount, PhaseCounts

CELL: Final = 1_000  # buckets; where a phase by count ends is found in two steps, the cell first


@dataclass(frozen=True)
class PlacedDevices:
    """Devices that the plan is for: their class, and a bucket under the rollout's seed that stands for all of theirs.

    No edge of the plan's ranges (`edges`) lies between that bucket and any of theirs. A device that a phase names is
    placed alone, with its id.
    """

    hardware_class: str
    bucket: int
    devices: int = 1
    device_id: str = ""


def ranges(policy: RolloutPolicy, phase: int, devices: Sequence[PlacedDevices] = ()) -> Reach:
    """Whom a phase treats and compares with. Only phases by count ask who the devices are."""
    return reaches(policy, devices)[phase]


def reaches(policy: RolloutPolicy, devices: Sequence[PlacedDevices]) -> tuple[Reach, ...]:
    """The reach of every phase, each at least that of the one before it. Held back devices are reached by name only."""
    most = BUCKETS - share_range(policy.holdback_share).end
    control = control_range(policy.control_share).start
    found: list[Reach] = []
    reach = Reach(0, control)
    for phase in policy.phases:
        if phase.devices:
            reach = replace(reach, listed=reach.listed | frozenset(phase.devices))
        else:
            end = min(most, _end_of_count(phase, reach, devices) if phase.count is not None else _end_of_share(phase))
            reach = _up_to(reach, end, phase.hardware_classes)
        reach = replace(reach, control_start=max(control, reach.treated_end))
        found.append(reach)
    return tuple(found)


def control_share(policy: RolloutPolicy, population: int) -> float:
    """The share of the buckets that is the control among so many devices: the policy's, or that of its most devices."""
    if policy.control_share * population <= policy.control_devices:
        return policy.control_share
    return max(1, policy.control_devices * BUCKETS // population) / BUCKETS


def edges(policy: RolloutPolicy) -> tuple[int, ...]:
    """Where a range of any phase begins or ends, in rising order; those of counts are known only when devices are."""
    found = reaches(policy, ())
    return tuple(
        sorted(
            {edge for item in found for edge in (item.widest_end, item.treated_end, item.control_start)}
            | {end for item in found for end in item.class_ends.values()}
        )
    )


def cells(policy: RolloutPolicy, devices: Sequence[PlacedDevices]) -> tuple[int, ...]:
    """The first buckets of the cells in which a phase by count would end, if devices are placed by cells."""
    if not any(phase.count is not None for phase in policy.phases):
        return ()
    found = reaches(policy, devices)
    ends = {end for item in found for end in (item.treated_end, *item.class_ends.values())}
    return tuple(sorted({(end - 1) // CELL * CELL for end in ends if end > 0}))


def refined(policy: RolloutPolicy, places: Sequence[int], fine: Sequence[int]) -> tuple[int, ...]:
    """`places` with every `CELL`th bucket where a phase counts devices, and with every bucket of the cells `fine`."""
    if not any(phase.count is not None for phase in policy.phases):
        return tuple(places)
    coarse = range(0, BUCKETS, CELL)
    return tuple(sorted({*places, *coarse, *(start + step for start in fine for step in range(CELL))}))


def _end_of_share(phase: Phase) -> int:
    return share_range(phase.share).end


def _end_of_count(phase: Phase, reach: Reach, devices: Sequence[PlacedDevices]) -> int:
    """The end of the range that holds `count` devices, those counted that are treated already."""
    further, waiting = phase.count or 0, list[tuple[int, int]]()
    for item in devices:
        if phase.hardware_classes and item.hardware_class not in phase.hardware_classes:
            continue
        if reach.treats(item.device_id, item.hardware_class, item.bucket):
            further -= item.devices
        else:
            waiting.append((item.bucket, item.devices))
    if further <= 0:
        return reach.treated_end
    for place, number in sorted(waiting):
        further -= number
        if further <= 0:
            return place + 1
    return BUCKETS


def _up_to(reach: Reach, end: int, classes: Sequence[str]) -> Reach:
    """The reach with buckets up to `end` treated, for some classes or for all."""
    if classes:
        further = {name: end for name in classes if end > reach.end_of(name)}
        return replace(reach, class_ends={**reach.class_ends, **further})
    treated_end = max(end, reach.treated_end)
    further = {name: own for name, own in reach.class_ends.items() if own > treated_end}
    return replace(reach, treated_end=treated_end, class_ends=further)


def count(reach: Reach, devices: Sequence[PlacedDevices]) -> PhaseCounts:
    """How many of these devices a phase treats and leaves as control, by hardware class."""
    classes: dict[str, list[int]] = {}
    for item in devices:
        tally = classes.setdefault(item.hardware_class, [0, 0, 0])
        if reach.treats(item.device_id, item.hardware_class, item.bucket):
            tally[0] += item.devices
        elif item.bucket >= reach.control_start:
            tally[1] += item.devices
        tally[2] += item.devices
    return PhaseCounts(tuple(ClassCount(name, *tally) for name, tally in sorted(classes.items())))


def fit(policy: RolloutPolicy, devices: Sequence[PlacedDevices]) -> tuple[RolloutPolicy, tuple[Finding, ...]]:
    """The policy with one phase for each class where it says so; a preset's without phases that reach nobody further."""
    policy, written = _each_class(policy, devices)
    if not policy.is_fitted or not devices:
        return policy, written
    kept: list[Phase] = []
    dropped: list[str] = []
    reached = 0
    for index, (phase, reach) in enumerate(zip(policy.phases, reaches(policy, devices), strict=True)):
        treated = count(reach, devices).treated
        if treated > reached or index + 1 == len(policy.phases):
            kept.append(phase)
            reached = treated
        else:
            dropped.append(phase.words)
    if not dropped:
        return replace(policy, preset="") if written else policy, written
    sentence = f"left out the phases {', '.join(dropped)}: of {sum(item.devices for item in devices)} devices they would reach no further one"
    fitted = Finding(Level.NOTE, "phases_fitted", sentence)
    return replace(policy, phases=tuple(kept), preset=""), (*written, fitted)


def _each_class(policy: RolloutPolicy, devices: Sequence[PlacedDevices]) -> tuple[RolloutPolicy, tuple[Finding, ...]]:
    """Phases that stand for one per hardware class, written out: the class with the fewest devices first."""
    if not any(phase.each_class for phase in policy.phases):
        return policy, ()
    sizes: dict[str, int] = {}
    for device in devices:
        sizes[device.hardware_class] = sizes.get(device.hardware_class, 0) + device.devices
    classes = sorted(sizes, key=lambda name: (sizes[name], name))
    phases: list[Phase] = []
    for phase in policy.phases:
        if phase.each_class:
            phases += [replace(phase, each_class=False, hardware_classes=(name,)) for name in classes]
        else:
            phases.append(phase)
    if len(phases) > MAX_PHASES or not phases:
        sentence = (
            f"a phase for each of {len(classes)} hardware classes makes {len(phases)}; expected 1 to {MAX_PHASES}"
        )
        return policy, (Finding(Level.ERROR, "too_many_classes", sentence),)
    shown = ", ".join(classes) or "none: no active device fits the version today"
    written = Finding(Level.NOTE, "phases_by_class", f"one phase for each hardware class, in this order: {shown}")
    return replace(policy, phases=tuple(phases)), (written,)
