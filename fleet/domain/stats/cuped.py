"""A difference of means with what was known of each device before: CUPED.

Deng, Xu, Kohavi and Walker, WSDM 2013: y - theta * (x - mean x) has the mean of y and less variance, if x was measured
before the treatment could change it; theta is cov(x, y) / var(x), pooled over both arms. x is the device's own time
under the champion. Where x never varies, theta is zero and nothing is gained or lost. Valid at one look; for many,
give its value and standard error to `mixture`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.domain.stats.distributions import student_quantile
from fleet.domain.stats.estimates import Estimate, Unjudgeable


@dataclass(frozen=True)
class PairedMoments:
    """Count, means, and sums of squares and of products around the means, of (x before, y now) per device."""

    n: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> "PairedMoments":
        """Of these (before, now); a device without a time before is not among them."""
        if not pairs:
            return cls()
        n = len(pairs)
        mean_x, mean_y = math.fsum(x for x, _ in pairs) / n, math.fsum(y for _, y in pairs) / n
        apart = [(x - mean_x, y - mean_y) for x, y in pairs]
        return cls(
            n,
            mean_x,
            mean_y,
            math.fsum(x * x for x, _ in apart),
            math.fsum(y * y for _, y in apart),
            math.fsum(x * y for x, y in apart),
        )

    def merge(self, other: "PairedMoments") -> "PairedMoments":
        """Of both; they must be of different devices."""
        if self.n == 0 or other.n == 0:
            return self if other.n == 0 else other
        n = self.n + other.n
        apart_x, apart_y, share = other.mean_x - self.mean_x, other.mean_y - self.mean_y, self.n * other.n / n
        return PairedMoments(
            n,
            (self.n * self.mean_x + other.n * other.mean_x) / n,
            (self.n * self.mean_y + other.n * other.mean_y) / n,
            self.xx + other.xx + apart_x * apart_x * share,
            self.yy + other.yy + apart_y * apart_y * share,
            self.xy + other.xy + apart_x * apart_y * share,
        )


@dataclass(frozen=True)
class Adjusted:
    """Treated minus control after adjustment. `variance_kept` is 1 where the past explained nothing."""

    estimate: Estimate
    theta: float
    variance_kept: float


def difference(treated: PairedMoments, control: PairedMoments, *, alpha: float) -> Adjusted | Unjudgeable:
    """With a two-sided interval of error `alpha`; one degree of freedom is theta's."""
    if min(treated.n, control.n) < 2 or treated.n + control.n < 4:  # noqa: PLR2004 - three parameters are estimated
        return Unjudgeable(
            f"expected at least 2 devices with a time before on each side, got {treated.n} and {control.n}"
        )
    xx = treated.xx + control.xx
    theta = (treated.xy + control.xy) / xx if xx > 0 else 0.0
    value = treated.mean_y - control.mean_y - theta * (treated.mean_x - control.mean_x)
    variance = _variance(treated, theta) + _variance(control, theta)
    plain = _variance(treated, 0.0) + _variance(control, 0.0)
    if variance <= 0:
        return Unjudgeable("expected devices that differ from each other, got the same value from all")
    width = student_quantile(alpha, treated.n + control.n - 3)
    error = math.sqrt(variance)
    return Adjusted(
        Estimate(value, value - width * error, value + width * error, error, width), theta, min(1.0, variance / plain)
    )


def _variance(arm: PairedMoments, theta: float) -> float:
    return max(0.0, arm.yy - 2 * theta * arm.xy + theta * theta * arm.xx) / ((arm.n - 1) * arm.n)
