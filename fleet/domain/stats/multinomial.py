"""Counts against the shares they should have, looked at as often as one likes: a Dirichlet-multinomial e-process.

Lindon and Malek, Anytime-valid inference for multinomial count data (2020): the evidence is the likelihood of the counts
under a Dirichlet mixture around the shares, over their likelihood under the shares; its chance of ever reaching 1/alpha
is at most alpha if the shares are right. One test serves two questions: are devices assigned as meant (shares are the
arms' weights), and do events (devices that crashed) fall on the arms as their exposure does.

The concentration says how near to the shares a mismatch is looked for. A large one is blind on small fleets: of 1,000
devices split 600 to 400, a concentration of 10,000 sees nothing and one of 100 is certain. `concentration` scales it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleet.domain.errors import InvalidInputError
from fleet.domain.stats.estimates import Unjudgeable

MAX_CONCENTRATION: Final = 10_000.0
DEVICES_PER_CONCENTRATION: Final = 10.0


def concentration(planned_devices: int) -> float:
    """What suits a fleet of this size: a tenth of it, at least 1 and at most 10,000."""
    return min(MAX_CONCENTRATION, max(1.0, planned_devices / DEVICES_PER_CONCENTRATION))


@dataclass(frozen=True)
class Multinomial:
    """The evidence so far. `log_mixture` and `log_shares` are the log-likelihoods of what was observed, batch by batch.

    An arm whose share is zero is not looked at: its count is dropped.
    """

    shares: tuple[float, ...]
    prior: tuple[float, ...]
    counts: tuple[int, ...]
    log_mixture: float = 0.0
    log_shares: float = 0.0
    log_largest: float = 0.0

    @classmethod
    def begin(cls, weights: Sequence[float], prior: Sequence[float] | float) -> "Multinomial | Unjudgeable":
        """A test of these weights. `prior` is a concentration, or the Dirichlet's parameter for each arm."""
        if not all(0 <= weight < math.inf for weight in weights):
            return Unjudgeable("expected weights of at least zero")
        whole = math.fsum(weights)
        if sum(weight > 0 for weight in weights) < 2:  # noqa: PLR2004 - a comparison needs two
            return Unjudgeable("expected at least 2 arms with a weight")
        shares = tuple(weight / whole for weight in weights)
        scaled = tuple(prior * share for share in shares) if isinstance(prior, float | int) else tuple(prior)
        if len(scaled) != len(shares) or any(
            share > 0 and not 0 < a < math.inf for share, a in zip(shares, scaled, strict=True)
        ):
            return Unjudgeable("expected a positive prior for each arm with a weight")
        return cls(shares, scaled, (0,) * len(shares))

    def observe(self, batch: Sequence[int]) -> "Multinomial":
        """With these further counts, one for each arm; none may be negative. The order within a batch is not known."""
        if len(batch) != len(self.shares) or any(count < 0 for count in batch):
            raise InvalidInputError(
                "counts_invalid", f"expected {len(self.shares)} counts of at least zero, got {list(batch)[:8]}"
            )
        arms = [
            (count, share, a + before)
            for count, share, a, before in zip(batch, self.shares, self.prior, self.counts, strict=True)
            if share > 0
        ]
        n, whole = sum(count for count, _, _ in arms), math.fsum(a for _, _, a in arms)
        ways = math.lgamma(n + 1) - math.fsum(math.lgamma(count + 1) for count, _, _ in arms)
        mixture = math.lgamma(whole) - math.lgamma(whole + n)
        mixture += math.fsum(math.lgamma(a + count) - math.lgamma(a) for count, _, a in arms)
        log_mixture = self.log_mixture + ways + mixture
        log_shares = self.log_shares + ways + math.fsum(count * math.log(share) for count, share, _ in arms)
        return replace(
            self,
            counts=tuple(
                before + (count if share > 0 else 0)
                for before, count, share in zip(self.counts, batch, self.shares, strict=True)
            ),
            log_mixture=log_mixture,
            log_shares=log_shares,
            log_largest=max(self.log_largest, log_mixture - log_shares),
        )

    @property
    def log_evidence(self) -> float:
        """The logarithm of the e-value now. It depends on the counts alone, not on their order or batches."""
        return self.log_mixture - self.log_shares

    @property
    def p(self) -> float:
        """The chance of evidence at least as large at any look so far; it never rises."""
        return math.exp(-self.log_largest)

    def rejects(self, alpha: float) -> bool:
        """Whether the shares were refuted at some look, with error at most `alpha` over all of them."""
        return self.log_largest >= -math.log(alpha)
