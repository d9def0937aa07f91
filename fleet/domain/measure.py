"""Adds devices up to the arms that gates compare: one vote per device, by hardware class, never over phases.

Robust to liars: a device has one vote however much it sends; totals that cannot be are left out; what a device was
before the rollout is taken out of what it is now (CUPED: Deng, Xu, Kohavi and Walker, WSDM 2013), within each stratum,
with a coefficient between zero and one, so that a device's past cannot be used as a lever. Trimming is `stats.samples`'s.

Costs O(devices); one call a look. It does not judge.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final, NamedTuple

from fleet.domain.gate_policy import CRASHES, Gates, MeasuredGate, Shape
from fleet.domain.measurements import Arm, CrashCount, DeviceRow, Listed, Measured, Measures, Side, Total
from fleet.domain.stats.samples import Sample
from fleet.domain.strata import ALL_CLASSES, Comparison, parts
from fleet.domain.verdicts import PhaseCounts

MAX_LISTED_DEVICES: Final = 40  # per side, in the evidence
# Fewer devices with a past than this say too little of how the past and the present go together.
MIN_WITH_PAST: Final = 20
MAX_HOURS: Final = 4.0  # medians: so much of the exposure can be one device's

Grouped = dict[tuple[str, Side], list[DeviceRow]]


def measure(gates: Gates, counts: PhaseCounts, compared: Comparison, rows: Iterable[DeviceRow]) -> Measures:
    """The arms of every gate: over all classes, and in each stratum that is compared."""
    grouped: Grouped = {}
    for row in rows:
        grouped.setdefault((row.hardware_class, row.side), []).append(row)
    known = {item.hardware_class for item in counts.classes} | {name for name, _ in grouped}
    strata = {ALL_CLASSES: frozenset(known)}
    strata |= {part.name: part.classes for part in parts(counts, compared)}
    strata |= {stratum.name: stratum.classes for stratum in compared.strata}
    found = {
        (gate.name, name): _measured(gate, grouped, classes)
        for gate in gates.measured
        for name, classes in strata.items()
    }
    return Measures(found, _crashes(grouped) if gates.crash is not None else ())


def _measured(gate: MeasuredGate, grouped: Grouped, classes: frozenset[str]) -> Measured:
    sides = {side: _values(gate, grouped, side, classes) for side in Side}
    theta, middle = _past(list(sides.values()))
    treated, control = (_arm(gate, sides[side], theta, middle) for side in (Side.TREATED, Side.CONTROL))
    own = [item.now - item.before for item in sides[Side.TREATED] if item.before is not None]
    # The past is as noisy as the present, or less.
    noise = 2 * _noise(gate, sides[Side.TREATED])
    return Measured(treated, control, theta, Sample.of(own, noise=noise))


class _Value(NamedTuple):
    """What one device says: now, and before if it has a past."""

    row: DeviceRow
    total: Total
    now: float
    before: float | None


def _values(gate: MeasuredGate, grouped: Grouped, side: Side, classes: frozenset[str]) -> list[_Value]:
    """Of the devices that count."""
    found: list[_Value] = []
    for name in sorted(classes):
        for row in grouped.get((name, side), ()):
            total = row.totals.get(gate.metric)
            now = None if total is None else _value(gate, total)
            if total is not None and now is not None:
                past = row.before.get(gate.metric)
                found.append(_Value(row, total, now, None if past is None else _value(gate, past)))
    return found


def _value(gate: MeasuredGate, total: Total) -> float | None:
    """What one device says, if it says enough and its totals can be."""
    if total.denominator < gate.min_per_device or not math.isfinite(total.numerator):
        return None
    value = total.numerator / total.denominator
    low, high = (0.0, 1.0) if gate.shape is Shape.SHARE else gate.bounds or (-math.inf, math.inf)
    return value if low <= value <= high else None


def _past(arms: Sequence[Sequence[_Value]]) -> tuple[float | None, float]:
    """How much of the past to take out, and the mean past; None where too few devices have one."""
    pairs = [[(item.before, item.now) for item in arm if item.before is not None] for arm in arms]
    every = [before for arm in pairs for before, _ in arm]
    if len(every) < MIN_WITH_PAST or min(len(arm) for arm in pairs) < 2:  # noqa: PLR2004 - a spread needs two
        return None, 0.0
    products = squares = 0.0
    for arm in pairs:
        mean_x, mean_y = (math.fsum(pair[place] for pair in arm) / len(arm) for place in (0, 1))
        products += math.fsum((x - mean_x) * (y - mean_y) for x, y in arm)
        squares += math.fsum((x - mean_x) ** 2 for x, _ in arm)
    theta = min(1.0, max(0.0, products / squares)) if squares > 0 else 0.0
    return theta, math.fsum(every) / len(every)


def _arm(gate: MeasuredGate, values: Sequence[_Value], theta: float | None, middle: float) -> Arm:
    noise = _noise(gate, values)
    raw = adjusted = Sample.of([item.now for item in values], noise=noise)
    if theta:
        residues = [item.now if item.before is None else item.now - theta * (item.before - middle) for item in values]
        adjusted = Sample.of(residues, noise=noise)
    listed = heapq.nsmallest(MAX_LISTED_DEVICES, values, key=lambda item: item.row.device_id)
    return Arm(
        devices=len(values),
        numerator=math.fsum(item.total.numerator for item in values),
        denominator=math.fsum(item.total.denominator for item in values),
        raw=raw,
        adjusted=adjusted,
        listed=tuple(
            Listed(item.row.device_id, item.row.hardware_class, item.total.numerator, item.total.denominator)
            for item in listed
        ),
    )


def _noise(gate: MeasuredGate, values: Sequence[_Value]) -> float:
    """The variance that one device's value has of its own, on average: that of independent inferences or values.

    Devices that happen to agree exactly must not make an interval of width zero. Shares: at (S + 1) / (N + 2). Totals
    per inference are taken for counts, at (S + 1) / N. Means: by the spread within each device.
    """
    if not values:
        return 0.0
    totals = [item.total for item in values]
    s, n = math.fsum(item.numerator for item in totals), math.fsum(item.denominator for item in totals)
    per_unit = math.fsum(1 / item.denominator for item in totals) / len(totals)
    if gate.shape is Shape.SHARE:
        share = (s + 1) / (n + 2)
        return share * (1 - share) * per_unit
    if gate.shape is Shape.RATIO:
        return (s + 1) / n * per_unit if s >= 0 else 0.0
    spreads = (
        max(0.0, item.squares / item.denominator - (item.numerator / item.denominator) ** 2) / item.denominator
        for item in totals
    )
    return math.fsum(spreads) / len(totals)


def _crashes(grouped: Grouped) -> tuple[CrashCount, ...]:
    """Devices, not crashes: one in a crash loop counts once. Hours are capped, so that one device is not the exposure."""
    found: list[CrashCount] = []
    for (name, side), rows in sorted(grouped.items()):
        totals = [total for row in rows if (total := row.totals.get(CRASHES)) is not None and total.denominator > 0]
        if totals:
            cap = MAX_HOURS * median(total.denominator for total in totals)
            hours = math.fsum(min(cap, total.denominator) for total in totals)
            found.append(CrashCount(name, side, len(totals), sum(total.numerator > 0 for total in totals), hours))
    return tuple(found)
