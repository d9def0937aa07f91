"""A quantile of all inferences of an arm (p95 latency) and its difference, when inferences come in devices.

Deng, Knoblich and Lu, KDD 2018: the share of inferences at or below the quantile is a ratio of sums over devices, whose
standard error sigma is the delta method's; the interval runs from the quantile at q - z * sigma to that at q + z * sigma
(outer confidence interval), and a standard error for differences is its width over 2 z. Inferences of one device are
alike, so that this is wider than for independent ones: a factor that narrows it is turned upside down.

Devices are counted in bins, whose upper edges are the same for all; within a bin, inferences are taken to be spread
evenly. This is the quantile of inferences, not the mean of the devices' quantiles, which is another number. Weights are
capped as in `ratios`. Valid at one look. Gates use `ratios` on exceedances instead, which hold at every look.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import NormalDist, median

from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.ratios import MAX_WEIGHT, RatioSums, Unit


@dataclass(frozen=True)
class BinnedUnit:
    """One device's inferences by bin. One bin more than there are edges: the last holds what is above them all."""

    device_id: str
    counts: tuple[float, ...]

    @property
    def total(self) -> float:
        """All its inferences."""
        return math.fsum(self.counts)


def quantile(units: Sequence[BinnedUnit], edges: Sequence[float], q: float, *, alpha: float) -> Estimate | Unjudgeable:
    """The value that a share `q` of the inferences does not exceed; `edges` ascend from above zero."""
    if not 0 < q < 1:
        return Unjudgeable(f"expected a quantile between 0 and 1, got {q:g}")
    if not edges or edges[0] <= 0 or any(a >= b for a, b in pairwise(edges)):
        return Unjudgeable("expected ascending edges above zero")
    if any(len(unit.counts) != len(edges) + 1 or min(unit.counts) < 0 for unit in units):
        return Unjudgeable(f"expected {len(edges) + 1} counts of at least zero from each device")
    busy = [unit for unit in units if unit.total > 0]
    if len(busy) < 2:  # noqa: PLR2004 - a variance needs two
        return Unjudgeable(f"expected at least 2 devices with inferences, got {len(busy)}")
    cap = MAX_WEIGHT * median(unit.total for unit in busy)
    scales = [min(1.0, cap / unit.total) for unit in busy]
    merged = [
        math.fsum(scale * unit.counts[bin_] for scale, unit in zip(scales, busy, strict=True))
        for bin_ in range(len(edges) + 1)
    ]
    value = _value_at(merged, edges, q)
    if value is None:
        return Unjudgeable(f"expected the quantile below the largest edge {edges[-1]:g}, got it above")
    below = RatioSums.of([Unit(unit.device_id, _at_most(unit, edges, value), unit.total) for unit in busy])
    z = NormalDist().inv_cdf(1 - alpha / 2)
    sigma = math.sqrt(max(below.unit_variance / below.devices, below.floor))
    upper = _value_at(merged, edges, q + z * sigma)
    if upper is None:
        return Unjudgeable("expected more devices: the interval reaches above the largest edge")
    lower = _value_at(merged, edges, max(0.0, q - z * sigma)) or 0.0
    return Estimate(value, lower, upper, (upper - lower) / (2 * z), z)


def difference(
    treated: Sequence[BinnedUnit], control: Sequence[BinnedUnit], edges: Sequence[float], q: float, *, alpha: float
) -> Estimate | Unjudgeable:
    """Treated minus control, two-sided error `alpha`."""
    a, b = quantile(treated, edges, q, alpha=alpha), quantile(control, edges, q, alpha=alpha)
    if isinstance(a, Unjudgeable):
        return Unjudgeable(f"treated: {a.reason}")
    if isinstance(b, Unjudgeable):
        return Unjudgeable(f"control: {b.reason}")
    error = math.hypot(a.standard_error, b.standard_error)
    value = a.value - b.value
    return Estimate(value, value - a.multiplier * error, value + a.multiplier * error, error, a.multiplier)


def _value_at(merged: Sequence[float], edges: Sequence[float], q: float) -> float | None:
    """Where the merged counts reach a share `q`; None above the last edge."""
    wanted = q * math.fsum(merged)
    for place, reached in enumerate(accumulate(merged)):
        if reached >= wanted and merged[place] > 0:
            if place == len(edges):
                return None
            low = edges[place - 1] if place else 0.0
            return edges[place] - (reached - wanted) / merged[place] * (edges[place] - low)
    return None


def _at_most(unit: BinnedUnit, edges: Sequence[float], value: float) -> float:
    """How many of a device's inferences are at most `value`."""
    low, total = 0.0, 0.0
    for high, count in zip(edges, unit.counts, strict=False):
        if high > value:
            return total + count * (value - low) / (high - low)
        total += count
        low = high
    return total
