"""How a rollout's chance of a wrongful revert is shared out: over phases, kinds of gate, gates and strata.

A ledger: what a phase was given is spent, whether or not something failed; what a phase could not use, because it had
nothing to compare, is left for those that follow. All of it follows from the policy and from counts that were taken when
the phase began, so that no measurement can move it. By the union bound the errors add up to at most `alpha`.
"""

from dataclasses import dataclass
from typing import Final

# Of alpha, what goes to comparisons with the control or a device's own past; the rest to limits and failure counts.
COMPARATIVE_SHARE: Final = 0.8


@dataclass(frozen=True)
class Spent:
    """The error that earlier phases have used, by kind."""

    comparative: float = 0.0
    absolute: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        """Both."""
        return Spent(self.comparative + other.comparative, self.absolute + other.absolute)


@dataclass(frozen=True)
class Allotment:
    """What one phase may use: the error of each compared gate and of each limit, and how many of them there are."""

    comparative: float
    absolute: float
    comparisons: int
    limits: int

    @property
    def spent(self) -> Spent:
        """What the phase costs."""
        return Spent(self.comparative * self.comparisons, self.absolute * self.limits)

    def encode(self) -> dict[str, object]:
        """The JSON form, frozen with the judgement."""
        return {
            "comparative": self.comparative,
            "comparisons": self.comparisons,
            "absolute": self.absolute,
            "limits": self.limits,
        }


def allot(alpha: float, *, phase: int, phases: int, spent: Spent, comparisons: int, limits: int) -> Allotment:
    """The budget of phase number `phase` (from zero) of `phases`, in equal parts for what is judged in it.

    Half of what is left, all of it in the last phase: the first phases have the fewest devices and stop the most harm.
    """
    share = 1.0 if phase + 1 >= phases else 0.5
    comparative = share * max(0.0, alpha * COMPARATIVE_SHARE - spent.comparative)
    absolute = share * max(0.0, alpha * (1 - COMPARATIVE_SHARE) - spent.absolute)
    return Allotment(comparative / max(1, comparisons), absolute / max(1, limits), comparisons, limits)
