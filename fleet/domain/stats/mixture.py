"""The mixture sequential probability ratio test (mSPRT) of an estimate with a known standard error.

Robbins (1970); Johari, Koomen, Pekelis and Walsh, Peeking at A/B tests (KDD 2017). The likelihood ratio of the estimate
under a normal mixture of effects around the margin, over its likelihood at the margin:
E = (1 + v)**-1/2 * exp(z**2 * v / (2 * (1 + v))), where v is the mixture's variance in squared standard errors. Its
chance of ever reaching 1/alpha at no effect is at most alpha. `tau` is fixed by the plan, so that data cannot tune it.
Two-sided and asymptotic, for many devices; for few, `sequences` knows that the variance is estimated.
"""

import math
from dataclasses import dataclass

from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.sequences import prior_variance

_MANY = 1e12


@dataclass(frozen=True)
class Mixture:
    """A planned test: effects are looked for at a distance of about `tau` from the margin."""

    tau: float

    @classmethod
    def planned(cls, alpha: float, standard_error: float) -> "Mixture":
        """The test with the shortest interval at the planned standard error (Waudby-Smith et al. 2021)."""
        return cls(math.sqrt(prior_variance(alpha, _MANY, sides=2)) * standard_error)

    def log_evidence(self, value: float, standard_error: float, margin: float = 0.0) -> float | Unjudgeable:
        """The logarithm of the e-value against `value` being `margin`."""
        if refused := self._refused(value, standard_error):
            return refused
        variance = (self.tau / standard_error) ** 2
        z = (value - margin) / standard_error
        return z * z * variance / (2 * (1 + variance)) - math.log1p(variance) / 2

    def p(
        self, value: float, standard_error: float, margin: float = 0.0, *, so_far: float = 1.0
    ) -> float | Unjudgeable:
        """The always-valid p-value; `so_far` is the one of the last look, which it never exceeds."""
        found = self.log_evidence(value, standard_error, margin)
        return found if isinstance(found, Unjudgeable) else min(so_far, math.exp(min(0.0, -found)))

    def interval(self, value: float, standard_error: float, alpha: float) -> Estimate | Unjudgeable:
        """The margins that are not refuted at this look; they hold at every look with error at most `alpha`."""
        if refused := self._refused(value, standard_error):
            return refused
        variance = (self.tau / standard_error) ** 2
        width = math.sqrt((1 + variance) / variance * (math.log1p(variance) - 2 * math.log(alpha)))
        reach = width * standard_error
        return Estimate(value, value - reach, value + reach, standard_error, width)

    def _refused(self, value: float, standard_error: float) -> Unjudgeable | None:
        if not (math.isfinite(value) and 0 < standard_error < math.inf and 0 < self.tau < math.inf):
            return Unjudgeable(
                f"expected a value, a standard error and a tau above zero, got {value:g}, {standard_error:g}, {self.tau:g}"
            )
        return None
