"""Ratios of sums (correct over labels, slow inferences over inferences) with the device as the unit.

Variances by the delta method (Deng, Knoblich, Lu, KDD 2018): for R = sum S / sum N over K devices,
Var(R) = (Var(S) - 2 R Cov(S, N) + R**2 Var(N)) / (K * mean(N)**2).

Small fleets: below `POOL_BELOW` devices in an arm the two arms share one variance, which four devices alone cannot
estimate. Floor: an arm's variance is never below that of independent inferences at the smoothed share, so that devices
that happen to agree exactly do not make an interval of width zero. One vote per device: a device's weight is capped at
`MAX_WEIGHT` medians, so that one busy or lying device cannot carry its arm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.sequences import radius

POOL_BELOW: Final = 20
MAX_WEIGHT: Final = 4.0


@dataclass(frozen=True)
class Unit:
    """One device's totals of one metric: 0 <= numerator <= denominator."""

    device_id: str
    numerator: float
    denominator: float


@dataclass(frozen=True)
class RatioSums:
    """Sufficient statistics of one arm: S is the numerator, N the denominator of each device."""

    devices: int
    s: float
    n: float
    ss: float
    nn: float
    sn: float

    @classmethod
    def of(cls, units: Sequence[Unit]) -> "RatioSums":
        """Add up devices, each capped at `MAX_WEIGHT` times the median denominator."""
        if not units:
            return cls(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        cap = MAX_WEIGHT * median(unit.denominator for unit in units)
        pairs = [
            (unit.numerator * scale, unit.denominator * scale)
            for unit in units
            if (scale := min(1.0, cap / unit.denominator) if unit.denominator > 0 else 0.0) > 0
        ]
        return cls(
            devices=len(pairs),
            s=math.fsum(s for s, _ in pairs),
            n=math.fsum(n for _, n in pairs),
            ss=math.fsum(s * s for s, _ in pairs),
            nn=math.fsum(n * n for _, n in pairs),
            sn=math.fsum(s * n for s, n in pairs),
        )

    @property
    def ratio(self) -> float:
        """Sum S / sum N; only with a denominator."""
        return self.s / self.n

    @property
    def unit_variance(self) -> float:
        """The variance of one device's influence on the ratio: `K * Var(R)`. Needs two devices."""
        k, r = self.devices, self.ratio
        residual_squares = self.ss - 2 * r * self.sn + r * r * self.nn
        mean_n = self.n / k
        return max(0.0, residual_squares) / ((k - 1) * mean_n * mean_n)

    @property
    def floor(self) -> float:
        """The least variance that R can have: that of independent inferences, at the share (S+1)/(N+2)."""
        share = (self.s + 1) / (self.n + 2)
        return share * (1 - share) / self.n


def share_of(arm: RatioSums, *, alpha: float, planned: int) -> Estimate | Unjudgeable:
    """One arm's ratio, within [0, 1]. `planned` is how many devices the phase was planned to measure."""
    if arm.devices < 2 or arm.n <= 0:  # noqa: PLR2004 - a variance needs two
        return Unjudgeable(f"expected at least 2 devices with data, got {arm.devices}")
    error = math.sqrt(max(arm.unit_variance / arm.devices, arm.floor))
    planned = max(planned, 2)
    width = radius(alpha, df=arm.devices - 1, size=arm.devices, planned=planned, planned_df=planned - 1)
    reach = width * error
    return Estimate(arm.ratio, max(0.0, arm.ratio - reach), min(1.0, arm.ratio + reach), error, width)


def difference(
    treated: RatioSums, control: RatioSums, *, alpha: float, planned_treated: int, planned_control: int
) -> Estimate | Unjudgeable:
    """Treated minus control, within [-1, 1]. Needs two devices with data on each side."""
    if min(treated.devices, control.devices) < 2 or min(treated.n, control.n) <= 0:  # noqa: PLR2004
        return Unjudgeable(
            f"expected at least 2 devices with data on each side, got {treated.devices} and {control.devices}"
        )
    k_t, k_c = treated.devices, control.devices
    if min(k_t, k_c) < POOL_BELOW:
        pooled = ((k_t - 1) * treated.unit_variance + (k_c - 1) * control.unit_variance) / (k_t + k_c - 2)
        variance = pooled * (1 / k_t + 1 / k_c)
    else:
        variance = treated.unit_variance / k_t + control.unit_variance / k_c
    error = math.sqrt(max(variance, treated.floor + control.floor))
    planned_treated, planned_control = max(planned_treated, 2), max(planned_control, 2)
    width = radius(
        alpha,
        df=k_t + k_c - 2,
        size=_harmonic(k_t, k_c),
        planned=_harmonic(planned_treated, planned_control),
        planned_df=planned_treated + planned_control - 2,
    )
    value = treated.ratio - control.ratio
    return Estimate(value, max(-1.0, value - width * error), min(1.0, value + width * error), error, width)


def _harmonic(a: int, b: int) -> float:
    return a * b / (a + b)
