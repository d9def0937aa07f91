"""Shares of devices and their difference at one look: Wilson's interval and Newcombe's hybrid of two of them.

Wilson (1927); Newcombe, Statistics in Medicine 17 (1998), method 3 for one share and method 10 for a difference. Good
for few devices and for shares near 0 and 1, where the textbook interval leaves [0, 1]. At every look: `shares`.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from fleet.domain.stats.estimates import Unjudgeable


@dataclass(frozen=True)
class Bounds:
    """A share or a difference of shares; its bounds are not symmetric."""

    value: float
    lower: float
    upper: float


def wilson(events: int, devices: int, *, alpha: float) -> Bounds | Unjudgeable:
    """The share of devices with the event, two-sided error `alpha`."""
    if not 0 <= events <= devices or devices == 0:
        return Unjudgeable(f"expected devices, and events among them, got {events} of {devices}")
    z = NormalDist().inv_cdf(1 - alpha / 2)
    share = events / devices
    middle = 2 * events + z * z
    reach = z * math.sqrt(z * z + 4 * events * (1 - share))
    below = 2 * (devices + z * z)
    # Exact at the ends, where rounding would leave the interval an epsilon short.
    lower = 0.0 if events == 0 else (middle - reach) / below
    upper = 1.0 if events == devices else (middle + reach) / below
    return Bounds(share, lower, upper)


def newcombe(
    treated_events: int, treated: int, control_events: int, control: int, *, alpha: float
) -> Bounds | Unjudgeable:
    """Treated minus control, two-sided error `alpha`."""
    a, b = wilson(treated_events, treated, alpha=alpha), wilson(control_events, control, alpha=alpha)
    if isinstance(a, Unjudgeable):
        return a
    if isinstance(b, Unjudgeable):
        return b
    value = a.value - b.value
    return Bounds(
        value,
        value - math.hypot(a.value - a.lower, b.upper - b.value),
        value + math.hypot(a.upper - a.value, b.value - b.lower),
    )
