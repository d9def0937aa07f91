"""A common difference of shares over strata, for counts too small to weigh strata by their variances.

Mantel and Haenszel (1959): strata are weighted by n1 * n0 / (n1 + n0). The variance is Sato's (1989), which holds for
few large strata and for many small ones. Valid at one look; the device is the unit, so counts are of devices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from fleet.domain.stats.estimates import Estimate, Unjudgeable


@dataclass(frozen=True)
class Table:
    """One stratum: how many of the devices of each arm had the event."""

    treated_events: int
    treated: int
    control_events: int
    control: int


def common_difference(strata: Sequence[Table], *, alpha: float) -> Estimate | Unjudgeable:
    """Treated minus control with a two-sided interval of error `alpha`. Strata with one arm alone say nothing."""
    if any(
        not (0 <= item.treated_events <= item.treated and 0 <= item.control_events <= item.control) for item in strata
    ):
        return Unjudgeable("expected events between zero and the devices of each arm")
    both = [item for item in strata if item.treated > 0 and item.control > 0]
    if not both:
        return Unjudgeable("expected at least one stratum with devices in both arms")
    weight = math.fsum(item.treated * item.control / (item.treated + item.control) for item in both)
    value = (
        math.fsum(
            (item.treated_events * item.control - item.control_events * item.treated) / (item.treated + item.control)
            for item in both
        )
        / weight
    )
    variance = math.fsum(value * _p(item) + _q(item) for item in both) / (weight * weight)
    if variance <= 0:
        return Unjudgeable("expected devices with the event and devices without, got one kind only")
    error, width = math.sqrt(variance), NormalDist().inv_cdf(1 - alpha / 2)
    return Estimate(value, value - width * error, value + width * error, error, width)


def _p(item: Table) -> float:
    n, n1, n0 = item.treated + item.control, item.treated, item.control
    a, c = item.treated_events, item.control_events
    return (n1 * n1 * c - n0 * n0 * a + n1 * n0 * (n0 - n1) / 2) / (n * n)


def _q(item: Table) -> float:
    n, a, c = item.treated + item.control, item.treated_events, item.control_events
    return (a * (item.control - c) + c * (item.treated - a)) / (2 * n)
