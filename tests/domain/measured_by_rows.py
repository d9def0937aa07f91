"""What `fleet.domain.measure` adds up, device by device and without leaving anything out: what its columns are tested against."""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from fleet.domain.gate_policy import CRASHES, Gates, MeasuredGate, Shape
from fleet.domain.measure import MAX_HOURS, MAX_LISTED_DEVICES, MIN_WITH_PAST
from fleet.domain.measurements import Arm, CrashCount, DeviceRow, Listed, Measured, Measures, Side, Total
from fleet.domain.stats.samples import Sample
from fleet.domain.strata import ALL_CLASSES, Comparison, parts
from fleet.domain.verdicts import PhaseCounts

Grouped = dict[tuple[str, Side], list[DeviceRow]]


def measured_by_rows(gates: Gates, counts: PhaseCounts, compared: Comparison, rows: Iterable[DeviceRow]) -> Measures:
    """The arms of every gate: over all classes, and in each stratum that is compared."""
    grouped: Grouped = {}
    for row in rows:
        grouped.setdefault((row.hardware_class, row.side), []).append(row)
    known = {item.hardware_class for item in counts.classes} | {name for name, _ in grouped}
    strata = {ALL_CLASSES: frozenset(known)}
    strata |= {part.name: part.classes for part in parts(counts, compared)}
    strata |= {stratum.name: stratum.classes for stratum in compared.strata}
    found: dict[tuple[str, str], Measured] = {}
    for gate in gates.measured:
        columns = {key: _column(gate, own) for key, own in grouped.items()}
        for name, classes in strata.items():
            sides = {side: _joined([columns.get((item, side), _Column()) for item in sorted(classes)]) for side in Side}
            found[gate.name, name] = _measured(gate, sides)
    return Measures(found, _crashes(grouped) if gates.crash is not None else ())


@dataclass(slots=True)
class _Column:
    """What the devices that count say of one metric: one entry each, in the same order. `before` is None without a past."""

    rows: list[DeviceRow] = field(default_factory=list)
    totals: list[Total] = field(default_factory=list)
    now: list[float] = field(default_factory=list)
    before: list[float | None] = field(default_factory=list)


def _column(gate: MeasuredGate, rows: Sequence[DeviceRow]) -> _Column:
    """Of one class and side: those that say enough, and whose totals can be."""
    found, metric = _Column(), gate.metric
    for row in rows:
        total = row.totals.get(metric)
        now = None if total is None else _value(gate, total)
        if total is None or now is None:
            continue
        past = row.before.get(metric)
        found.rows.append(row)
        found.totals.append(total)
        found.now.append(now)
        found.before.append(None if past is None else _value(gate, past))
    return found


def _joined(columns: Sequence[_Column]) -> _Column:
    """All of them, in this order."""
    some = [item for item in columns if item.rows]
    if len(some) == 1:
        return some[0]
    found = _Column()
    for item in some:
        found.rows += item.rows
        found.totals += item.totals
        found.now += item.now
        found.before += item.before
    return found


def _value(gate: MeasuredGate, total: Total) -> float | None:
    """What one device says, if it says enough and its totals can be."""
    numerator, denominator, _ = total
    if denominator < gate.min_per_device or not math.isfinite(numerator):
        return None
    value = numerator / denominator
    low, high = (0.0, 1.0) if gate.shape is Shape.SHARE else gate.bounds or (-math.inf, math.inf)
    return value if low <= value <= high else None


def _measured(gate: MeasuredGate, sides: Mapping[Side, _Column]) -> Measured:
    theta, middle = _past(list(sides.values()))
    treated, control = (_arm(gate, sides[side], theta, middle) for side in (Side.TREATED, Side.CONTROL))
    own = sides[Side.TREATED]
    differences = [now - before for now, before in zip(own.now, own.before, strict=True) if before is not None]
    # The past is as noisy as the present, or less.
    return Measured(treated, control, theta, Sample.of(differences, noise=2 * _noise(gate, own.totals)))


def _past(arms: Sequence[_Column]) -> tuple[float | None, float]:
    """How much of the past to take out, and the mean past; None where too few devices have one."""
    pairs = [
        [(before, now) for before, now in zip(arm.before, arm.now, strict=True) if before is not None] for arm in arms
    ]
    every = [before for arm in pairs for before, _ in arm]
    if len(every) < MIN_WITH_PAST or min(len(arm) for arm in pairs) < 2:
        return None, 0.0
    products = squares = 0.0
    for arm in pairs:
        mean_x, mean_y = (math.fsum([pair[place] for pair in arm]) / len(arm) for place in (0, 1))
        products += math.fsum([(x - mean_x) * (y - mean_y) for x, y in arm])
        squares += math.fsum([(x - mean_x) ** 2 for x, _ in arm])
    theta = min(1.0, max(0.0, products / squares)) if squares > 0 else 0.0
    return theta, math.fsum(every) / len(every)


def _arm(gate: MeasuredGate, own: _Column, theta: float | None, middle: float) -> Arm:
    noise = _noise(gate, own.totals)
    raw = adjusted = Sample.of(own.now, noise=noise)
    if theta:
        adjusted = Sample.of(
            [
                now if before is None else now - theta * (before - middle)
                for now, before in zip(own.now, own.before, strict=True)
            ],
            noise=noise,
        )
    listed = heapq.nsmallest(
        MAX_LISTED_DEVICES, zip(own.rows, own.totals, strict=True), key=lambda item: item[0].device_id
    )
    return Arm(
        devices=len(own.rows),
        numerator=math.fsum([total[0] for total in own.totals]),
        denominator=math.fsum([total[1] for total in own.totals]),
        mean=raw.plain.value,
        raw=raw,
        adjusted=adjusted,
        listed=tuple(
            Listed(row.device_id, row.hardware_class, total.numerator, total.denominator) for row, total in listed
        ),
    )


def _noise(gate: MeasuredGate, totals: Sequence[Total]) -> float:
    """The variance that one device's value has of its own, on average: that of independent inferences or values.

    Devices that happen to agree exactly must not make an interval of width zero. Shares: at (S + 1) / (N + 2). Totals
    per inference are taken for counts, at (S + 1) / N. Means: by the spread within each device.
    """
    if not totals:
        return 0.0
    s, n = math.fsum([total[0] for total in totals]), math.fsum([total[1] for total in totals])
    per_unit = math.fsum([1 / total[1] for total in totals]) / len(totals)
    if gate.shape is Shape.SHARE:
        share = (s + 1) / (n + 2)
        return share * (1 - share) * per_unit
    if gate.shape is Shape.RATIO:
        return (s + 1) / n * per_unit if s >= 0 else 0.0
    spreads = (
        max(0.0, squares / denominator - (numerator / denominator) ** 2) / denominator
        for numerator, denominator, squares in totals
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
