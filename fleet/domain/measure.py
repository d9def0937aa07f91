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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
    """The arms of every gate: over all classes, and in each stratum that is compared.

    The past is taken out only where arms are compared: in the strata, of gates with a margin. What is read against a
    limit is what the treated measured, and over several strata nothing is read but sums.
    """
    known = {item.hardware_class for item in counts.classes} | {name for name, _ in groups}
    strata = {ALL_CLASSES: frozenset(known)}
    strata |= {part.name: part.classes for part in parts(counts, compared)}
    strata |= {stratum.name: stratum.classes for stratum in compared.strata}
    arms = {stratum.name for stratum in compared.strata}
    found: dict[tuple[str, str], Measured] = {}
    for gate in gates.measured:
        has_margin = gate.margin is not None
        wanted = tuple(Side) if has_margin else (Side.TREATED,)
        columns = {key: _column(gate, key[0], group) for key, group in groups.items() if key[1] in wanted}
        for name, classes in strata.items():
            treated, control = (
                _joined([columns.get((item, side), _Column()) for item in sorted(classes)])
                for side in (Side.TREATED, Side.CONTROL)
            )
            if has_margin and name in arms:
                found[gate.name, name] = _compared(gate, treated, control)
            else:
                own_past = _own_past(gate, treated) if has_margin and not arms and name == ALL_CLASSES else Sample()
                found[gate.name, name] = Measured(_arm(gate, treated), _arm(gate, control), None, own_past)
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
    every, past = _values(gate, totals), group.before.get(gate.metric) if gate.margin is not None else None
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


def _compared(gate: MeasuredGate, treated: _Column, control: _Column) -> Measured:
    """Both arms, less what the devices' past explains."""
    theta, middle = _past((treated, control))
    arms = [
        replace(arm, adjusted=_adjusted(gate, own, theta, middle) if theta or gate.limit is None else arm.raw)
        for own in (treated, control)
        for arm in (_arm(gate, own),)
    ]
    return Measured(arms[0], arms[1], theta)


def _own_past(gate: MeasuredGate, own: _Column) -> Sample:
    """The devices' differences from their own time before. The past is as noisy as the present, or less."""
    differences = [now - before for now, before in zip(own.now, own.before, strict=True) if before is not None]
    return Sample.of(differences, noise=2 * _noise(gate, own)) if differences else Sample()


def _past(arms: Sequence[_Column]) -> tuple[float | None, float]:
    """How much of the past to take out, and the mean past; None where too few devices have one."""
    pairs = [_with_past(arm) for arm in arms]
    devices = sum(len(before) for before, _ in pairs)
    if devices < MIN_WITH_PAST or min(len(before) for before, _ in pairs) < 2:  # noqa: PLR2004 - a spread needs two
        return None, 0.0
    products = squares = 0.0
    for before, now in pairs:
        mean_x, mean_y = math.fsum(before) / len(before), math.fsum(now) / len(now)
        apart = [x - mean_x for x in before]
        products += math.fsum([x * (y - mean_y) for x, y in zip(apart, now, strict=True)])
        squares += math.fsum([x**2 for x in apart])
    theta = min(1.0, max(0.0, products / squares)) if squares > 0 else 0.0
    return theta, math.fsum([x for before, _ in pairs for x in before]) / devices


def _with_past(own: _Column) -> tuple[Sequence[float], Sequence[float]]:
    """Past and present of the devices that have both."""
    known = [value for value in own.before if value is not None]
    if len(known) == own.devices:
        return known, own.now
    return known, [now for now, before in zip(own.now, own.before, strict=True) if before is not None]


def _adjusted(gate: MeasuredGate, own: _Column, theta: float | None, middle: float) -> Sample:
    """Where the devices lie without what their past explains."""
    if not own.devices:
        return Sample()
    now = own.now
    if theta:
        now = [
            value if before is None else value - theta * (before - middle)
            for value, before in zip(own.now, own.before, strict=True)
        ]
    return Sample.of(now, noise=_noise(gate, own))


def _arm(gate: MeasuredGate, own: _Column) -> Arm:
    """One side as it measured: its sums, and where its devices lie if that is read against a limit."""
    if not own.devices:
        return Arm()
    raw = Sample() if gate.limit is None else Sample.of(own.now, noise=_noise(gate, own))
    return Arm(
        devices=own.devices,
        numerator=math.fsum(own.numerators),
        denominator=math.fsum(own.denominators),
        mean=math.fsum(own.now) / own.devices,
        raw=raw,
        adjusted=raw,
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
