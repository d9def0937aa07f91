"""Whether devices are shared out over arms as they were meant to be: Pearson's chi-square, valid at one look.

A sample-ratio mismatch says that the arms are not comparable, whatever they measure (Fabijan et al., KDD 2019), so it
is looked at before any metric. An arm of weight zero was given no devices on purpose: it is left out of the total and of
the degrees of freedom. For a look at any time, and for few devices, `multinomial` is the test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet.domain.stats.distributions import chi_square_tail
from fleet.domain.stats.estimates import Unjudgeable

# Cochran (1954): below this, the statistic's distribution is not the chi-square.
MIN_EXPECTED: Final = 5.0


@dataclass(frozen=True)
class Mismatch:
    """The chance `p` of shares at least so far off, if devices were shared out as meant."""

    p: float
    statistic: float
    df: int


def mismatch(counts: Sequence[int], weights: Sequence[float]) -> Mismatch | Unjudgeable:
    """Compare the devices of each arm with the arm's weight; weights need not add up to one."""
    if len(counts) != len(weights):
        return Unjudgeable(f"expected one count for each of {len(weights)} weights, got {len(counts)}")
    if any(count < 0 for count in counts) or not all(0 <= weight < math.inf for weight in weights):
        return Unjudgeable("expected counts and weights of at least zero")
    arms = [(count, weight) for count, weight in zip(counts, weights, strict=True) if weight > 0]
    if len(arms) < 2:  # noqa: PLR2004 - a comparison needs two
        return Unjudgeable(f"expected at least 2 arms with a weight, got {len(arms)}")
    devices, whole = sum(count for count, _ in arms), math.fsum(weight for _, weight in arms)
    expected = [devices * weight / whole for _, weight in arms]
    if min(expected) < MIN_EXPECTED:
        return Unjudgeable(f"expected at least {MIN_EXPECTED:g} devices due to each arm, got {min(expected):.3g}")
    statistic = math.fsum((count - due) ** 2 / due for (count, _), due in zip(arms, expected, strict=True))
    return Mismatch(chi_square_tail(statistic, len(arms) - 1), statistic, len(arms) - 1)
