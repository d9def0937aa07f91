"""How many standard errors an interval must span so that it holds at every look, for few devices and for many.

Sources: the Gaussian-mixture asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2021),
with the tuning of its prior for a planned sample; for an unknown variance the mixture of the t likelihood, which is
the g-prior Bayes factor of Goenen et al. (2005) and an e-process by Hendriksen, de Heide and Gruenwald (2021). As the
degrees of freedom grow, the second becomes the first, so one formula serves 12 devices and 20,000.

What this does not promise: the theory is for devices that arrive. A fixed cohort that accumulates inferences is another
regime, in which the sequence is conservative; the simulations in the tests say by how much.
"""

import math
from functools import lru_cache
from typing import Final

_PRIOR_DOUBLINGS: Final = 14


@lru_cache(maxsize=4_096)
def prior_variance(alpha: float, df: float, sides: int = 1) -> float:
    """The mixture's prior variance, in squared standard errors, that makes the interval shortest at the planned size.

    For many degrees of freedom this is the closed form of Waudby-Smith et al.; with few it must be wider, or no data
    at all could decide.
    """
    level = 2 * alpha if sides == 1 else alpha
    closed_form = -2 * math.log(level) + math.log(-2 * math.log(level) + 1)
    candidates = [math.ldexp(closed_form, doubling) for doubling in range(_PRIOR_DOUBLINGS)]
    return min((_radius(alpha, df, variance, sides), variance) for variance in candidates)[1]


def radius(alpha: float, *, df: float, size: float, planned: float, planned_df: float, sides: int = 1) -> float:
    """Half-width of the interval in standard errors; infinite where no data of this size could decide.

    `size` and `planned` measure the information that is there and that was planned for (harmonic number of devices);
    the prior is fixed by the plan alone, so that looking at the data cannot tune it. `sides=1` bounds one direction
    with error `alpha`, `sides=2` both together.
    """
    if df < 1 or size <= 0 or planned <= 0:
        return math.inf
    return _radius(alpha, df, prior_variance(alpha, planned_df, sides) * size / planned, sides)


def _radius(alpha: float, df: float, variance: float, sides: int) -> float:
    """Solve (mixture likelihood ratio at t) = 1/alpha for t; closed form.

    The ratio is (1 + v)**-1/2 * ((1 + t*t/df) / (1 + t*t/(df*(1 + v))))**((df + 1)/2), whose limit for df -> infinity is
    exp(t*t*v / (2*(1 + v))) / sqrt(1 + v).
    """
    spread = math.sqrt(1 + variance)
    log_odds = math.log1p(spread / (2 * alpha)) if sides == 1 else math.log(spread / alpha)
    exponent = 2 * log_odds / (df + 1)
    if exponent >= math.log1p(variance):
        return math.inf
    grown = math.expm1(exponent)
    return math.sqrt(df * grown / (1 - (1 + grown) / (1 + variance)))
