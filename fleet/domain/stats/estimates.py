"""What every estimator answers with: a value and its bounds, or the reason why there is none."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value with bounds, `multiplier` standard errors away from it where they are symmetric.

    Whether the bounds hold at one look or at every look is the estimator's to say.
    """

    value: float
    lower: float
    upper: float
    standard_error: float
    multiplier: float


@dataclass(frozen=True)
class Unjudgeable:
    """No estimate, and why."""

    reason: str
