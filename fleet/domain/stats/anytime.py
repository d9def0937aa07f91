"""How surprising an estimate is, at whichever look: the p-value that belongs to the intervals of `sequences`.

The smallest alpha whose interval leaves out zero, with the prior held at the one that was planned for `alpha`: the
inverse of `sequences.radius` (the mixture of the t likelihood; Hendriksen, de Heide and Gruenwald 2021). A threshold that
it crosses at any look is crossed with a chance of at most that threshold, were there no effect.
"""

import math

from fleet.domain.stats.sequences import prior_variance


def p_value(t: float, *, alpha: float, df: float, size: float, planned: float, planned_df: float) -> float:
    """Of an effect above zero, one-sided; `t` is the estimate in standard errors. One where nothing can be said.

    `alpha`, `size`, `planned` and `planned_df` mean what they mean for `sequences.radius`.
    """
    if not 0 < t < math.inf or df < 1 or size <= 0 or planned <= 0:
        return 1.0
    variance = prior_variance(alpha, planned_df) * size / planned
    exponent = (df + 1) / 2 * (math.log1p(t * t / df) - math.log1p(t * t / (df * (1 + variance))))
    return min(1.0, math.sqrt(1 + variance) / (2 * math.expm1(exponent)))
