"""Adds devices up to the arms that gates compare: one vote per device, by hardware class, never over phases.

Robust to liars: a device has one vote however much it sends; totals that cannot be are left out; what a device was
before the rollout is taken out of what it is now (CUPED: Deng, Xu, Kohavi and Walker, WSDM 2013), within each stratum,
with a coefficient between zero and one, so that a device's past cannot be used as a lever. Trimming is `stats.samples`'s.

Costs O(devices); one call a look, so it works on columns, and adds up only what the gates of the phase can read. It does
not judge.
"""

import heapq
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from statistics import median
from typing import Final

from fleet.domain.gate_policy import CRASHES, Gates, MeasuredGate, Shape
from fleet.domain.measurements import Arm, CrashCount, DeviceGroup, Groups, Listed, Measured, Measures, Side, Totals
from fleet.domain.stats.samples import Sample
from fleet.domain.strata import ALL_CLASSES, Comparison, parts
from fleet.domain.verdicts import PhaseCounts

MAX_LISTED_DEVICES: Final = 40  # per side, in the evidence
# Fewer devices with a past than this say too little of how the past and the present go together.
MIN_WITH_PAST: Final = 20
MAX_HOURS: Final = 4.0  # medians: so much of the exposure can be one device's
LARGEST: Final = sys.float_info.max  # beyond it there is only infinity


def measure(gates: Gates, counts: PhaseCounts, compared: Comparison, groups: Groups) -> Measures:
    """The arms of every gate: over all classes, and in each stratum that is compared."""
    known = {item.hardware_class for item in counts.classes} | {name for name, _ in groups}
    strata = {ALL_CLASSES: frozenset(known)}
    strata |= {part.name: part.classes for part in parts(counts, compared)}
    strata |= {stratum.name: stratum.classes for stratum in compared.strata}
    found: dict[tuple[str, str], Measured] = {}
    for gate in gates.measured:
        columns = {key: _column(gate, key[0], group) for key, group in groups.items()}
        for name, classes in strata.items():
            sides = {side: _joined([columns.get((item, side), _Column()) for item in sorted(classes)]) for side in Side}
            found[gate.name, name] = _measured(gate, sides, has_control=bool(compared.strata))
    return Measures(found, _crashes(groups) if gates.crash is not None else ())


@dataclass(slots=True)
class _Column:
    """What the devices that count say of one metric: one entry each, in the same order. `before` is None without a past."""

    numerators: list[float] = field(default_factory=list)
    denominators: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    now: list[float] = field(default_factory=list)
    before: list[float | None] = field(default_factory=list)
    listed: list[Listed] = field(default_factory=list)

    @property
    def devices(self) -> int:
        return len(self.now)


def _column(gate: MeasuredGate, hardware_class: str, group: DeviceGroup) -> _Column:
    """Of one class and side: those that say enough, and whose totals can be."""
    totals = group.totals.get(gate.metric)
    if totals is None:
        return _Column()
    every, past = _values(gate, totals), group.before.get(gate.metric)
    kept = [value is not None for value in every]
    numerators, denominators, squares = (list(compress(column, kept)) for column in totals)
    return _Column(
        numerators,
        denominators,
        squares,
        [value for value in every if value is not None],
        [None] * len(numerators) if past is None else list(compress(_values(gate, past), kept)),
        [
            Listed(device_id, hardware_class, numerator, denominator)
            for device_id, numerator, denominator in heapq.nsmallest(
                MAX_LISTED_DEVICES, zip(compress(group.ids, kept), numerators, denominators, strict=True)
            )
        ],
    )


def _joined(columns: Sequence[_Column]) -> _Column:
    """All of them, in this order."""
    some = [item for item in columns if item.devices]
    if len(some) == 1:
        return some[0]
    found = _Column()
    for item in some:
        found.numerators += item.numerators
        found.denominators += item.denominators
        found.squares += item.squares
        found.now += item.now
        found.before += item.before
        found.listed += item.listed
    found.listed = heapq.nsmallest(MAX_LISTED_DEVICES, found.listed)
    return found


def _values(gate: MeasuredGate, totals: Totals) -> list[float | None]:
    """What each device says, if it says enough and its totals can be. At least one is asked of every device."""
    least = max(1, gate.min_per_device)
    low, high = (0.0, 1.0) if gate.shape is Shape.SHARE else gate.bounds or (-LARGEST, LARGEST)
    return [
        value if denominator >= least and low <= (value := numerator / denominator) <= high else None
        for numerator, denominator in zip(totals.numerators, totals.denominators, strict=True)
    ]


def _measured(gate: MeasuredGate, sides: Mapping[Side, _Column], *, has_control: bool) -> Measured:
    theta, middle = _past(list(sides.values()))
    treated, control = (_arm(gate, sides[side], theta, middle) for side in (Side.TREATED, Side.CONTROL))
    if has_control:
        return Measured(treated, control, theta)
    own = sides[Side.TREATED]
    differences = [now - before for now, before in zip(own.now, own.before, strict=True) if before is not None]
    # The past is as noisy as the present, or less.
    return Measured(treated, control, theta, Sample.of(differences, noise=2 * _noise(gate, own)))


def _past(arms: Sequence[_Column]) -> tuple[float | None, float]:
    """How much of the past to take out, and the mean past; None where too few devices have one."""
    pairs = [
        [(before, now) for before, now in zip(arm.before, arm.now, strict=True) if before is not None] for arm in arms
    ]
    every = [before for arm in pairs for before, _ in arm]
    if len(every) < MIN_WITH_PAST or min(len(arm) for arm in pairs) < 2:  # noqa: PLR2004 - a spread needs two
        return None, 0.0
    products = squares = 0.0
    for arm in pairs:
        mean_x, mean_y = (math.fsum([pair[place] for pair in arm]) / len(arm) for place in (0, 1))
        products += math.fsum([(x - mean_x) * (y - mean_y) for x, y in arm])
        squares += math.fsum([(x - mean_x) ** 2 for x, _ in arm])
    theta = min(1.0, max(0.0, products / squares)) if squares > 0 else 0.0
    return theta, math.fsum(every) / len(every)


def _arm(gate: MeasuredGate, own: _Column, theta: float | None, middle: float) -> Arm:
    if not own.devices:
        return Arm()
    noise = _noise(gate, own)
    now = own.now
    if theta:
        now = [
            value if before is None else value - theta * (before - middle)
            for value, before in zip(own.now, own.before, strict=True)
        ]
    adjusted = Sample.of(now, noise=noise)
    raw = adjusted if not theta else Sample() if gate.limit is None else Sample.of(own.now, noise=noise)
    return Arm(
        devices=own.devices,
        numerator=math.fsum(own.numerators),
        denominator=math.fsum(own.denominators),
        mean=math.fsum(own.now) / own.devices,
        raw=raw,
        adjusted=adjusted,
        listed=tuple(own.listed),
    )


def _noise(gate: MeasuredGate, own: _Column) -> float:
    """The variance that one device's value has of its own, on average: that of independent inferences or values.

    Devices that happen to agree exactly must not make an interval of width zero. Shares: at (S + 1) / (N + 2). Totals
    per inference are taken for counts, at (S + 1) / N. Means: by the spread within each device.
    """
    if not own.devices:
        return 0.0
    if gate.shape is Shape.MEAN:
        spreads = [
            max(0.0, squares / denominator - (numerator / denominator) ** 2) / denominator
            for numerator, denominator, squares in zip(own.numerators, own.denominators, own.squares, strict=True)
        ]
        return math.fsum(spreads) / own.devices
    s, n = math.fsum(own.numerators), math.fsum(own.denominators)
    per_unit = math.fsum([1 / denominator for denominator in own.denominators]) / own.devices
    if gate.shape is Shape.SHARE:
        share = (s + 1) / (n + 2)
        return share * (1 - share) * per_unit
    return (s + 1) / n * per_unit if s >= 0 else 0.0


def _crashes(groups: Groups) -> tuple[CrashCount, ...]:
    """Devices, not crashes: one in a crash loop counts once. Hours are capped, so that one device is not the exposure."""
    found: list[CrashCount] = []
    for (name, side), group in sorted(groups.items()):
        totals = group.totals.get(CRASHES, Totals((), ()))
        those = [pair for pair in zip(totals.numerators, totals.denominators, strict=True) if pair[1] > 0]
        if those:
            cap = MAX_HOURS * median([hours for _, hours in those])
            hours = math.fsum([min(cap, hours) for _, hours in those])
            found.append(CrashCount(name, side, len(those), sum(crashes > 0 for crashes, _ in those), hours))
    return tuple(found)
