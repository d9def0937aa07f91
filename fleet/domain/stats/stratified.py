"""Differences within strata, put together by the strata's shares of the population: post-stratification.

Treated and control devices of one class and one step of a ramp are comparable; of different steps they are not, because
the arms' shares change between them (Simpson's paradox; Crook, Frasca, Kohavi and Longbotham, KDD 2009). So differences
are taken first and averaged then: sum of w * d, with variance sum of w**2 * v (Miratrix, Sekhon and Yu, 2013).
Cochran's Q (1954) asks whether one difference can stand for all strata.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from fleet.domain.stats.distributions import chi_square_tail
from fleet.domain.stats.estimates import Estimate, Unjudgeable


@dataclass(frozen=True)
class Stratum:
    """Treated minus control in one stratum, its variance, and how many devices of the population it stands for."""

    name: str
    difference: float
    variance: float
    devices: float


@dataclass(frozen=True)
class Stratified:
    """The population's difference. `heterogeneity` is the chance of strata at least so different, were they alike."""

    estimate: Estimate
    heterogeneity: float | None


def combine(strata: Sequence[Stratum], *, alpha: float) -> Stratified | Unjudgeable:
    """With a two-sided interval of error `alpha`, valid at one look; strata without devices are left out."""
    present = [item for item in strata if item.devices > 0]
    if not present:
        return Unjudgeable("expected at least one stratum with devices")
    if blind := [item.name for item in present if not 0 < item.variance < math.inf]:
        return Unjudgeable(f"expected a variance above zero in each stratum, got none in {', '.join(blind)}")
    whole = math.fsum(item.devices for item in present)
    value = math.fsum(item.devices / whole * item.difference for item in present)
    error = math.sqrt(math.fsum((item.devices / whole) ** 2 * item.variance for item in present))
    width = NormalDist().inv_cdf(1 - alpha / 2)
    return Stratified(
        Estimate(value, value - width * error, value + width * error, error, width), _heterogeneity(present)
    )


def _heterogeneity(strata: Sequence[Stratum]) -> float | None:
    if len(strata) == 1:
        return None
    precision = math.fsum(1 / item.variance for item in strata)
    common = math.fsum(item.difference / item.variance for item in strata) / precision
    q = math.fsum((item.difference - common) ** 2 / item.variance for item in strata)
    return chi_square_tail(q, len(strata) - 1)
