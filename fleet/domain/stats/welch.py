"""Two means whose variances differ: Welch's t (1947) with Satterthwaite's degrees of freedom. Valid at one look.

`difference` is b - a; `uplift` is (b - a) / a, its variance by the delta method: vb / a**2 + va * b**2 / a**4 (Deng,
Knoblich and Lu, KDD 2018), with the degrees of freedom of the difference.
"""

import math
from dataclasses import dataclass

from fleet.domain.stats.distributions import student_quantile, student_tail
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.moments import Moments
from fleet.domain.stats.ratios import RatioSums


@dataclass(frozen=True)
class Arm:
    """An estimate of one arm: of `n` devices, each of which has `unit_variance`."""

    n: int
    value: float
    unit_variance: float

    @classmethod
    def mean(cls, moments: Moments) -> "Arm | Unjudgeable":
        """The mean of one number per device."""
        if moments.n < 2:  # noqa: PLR2004 - a variance needs two
            return Unjudgeable(f"expected at least 2 devices, got {moments.n}")
        return cls(moments.n, moments.mean, moments.variance)

    @classmethod
    def ratio(cls, sums: RatioSums) -> "Arm | Unjudgeable":
        """A ratio of sums, its variance by the delta method."""
        if sums.devices < 2 or sums.n <= 0:  # noqa: PLR2004
            return Unjudgeable(f"expected at least 2 devices with data, got {sums.devices}")
        return cls(sums.devices, sums.ratio, sums.unit_variance)

    @property
    def variance(self) -> float:
        """Of the arm's value."""
        return self.unit_variance / self.n


@dataclass(frozen=True)
class Tested:
    """An estimate with the chance `p` of one at least as far from zero, were there no difference."""

    estimate: Estimate
    p: float
    df: float


def difference(a: Arm, b: Arm, *, alpha: float) -> Tested | Unjudgeable:
    """The second arm minus the first, with a two-sided interval of error `alpha`."""
    return _tested(b.value - a.value, a.variance + b.variance, _freedom(a, b), alpha)


def uplift(a: Arm, b: Arm, *, alpha: float) -> Tested | Unjudgeable:
    """The same relative to the first arm, which must not be zero."""
    if a.value == 0:
        return Unjudgeable("expected a first arm other than zero: an uplift is relative to it")
    variance = b.variance / a.value**2 + a.variance * b.value**2 / a.value**4
    return _tested((b.value - a.value) / a.value, variance, _freedom(a, b), alpha)


def _freedom(a: Arm, b: Arm) -> float:
    """Satterthwaite's; zero where neither arm varies."""
    below = a.variance**2 / (a.n - 1) + b.variance**2 / (b.n - 1)
    return (a.variance + b.variance) ** 2 / below if below > 0 else 0.0


def _tested(value: float, variance: float, df: float, alpha: float) -> Tested | Unjudgeable:
    if variance <= 0 or df <= 0:
        return Unjudgeable("expected devices that differ from each other, got the same value from all")
    error = math.sqrt(variance)
    width = student_quantile(alpha, df)
    estimate = Estimate(value, value - width * error, value + width * error, error, width)
    return Tested(estimate, student_tail(value / error, df), df)
