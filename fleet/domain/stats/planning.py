"""How many devices a comparison needs, and how long a phase takes to have them. Asked before anything is measured.

At one look: n1 = (z(alpha) + z(power))**2 * sigma**2 * (1 + 1/r) / effect**2 devices with r control devices for each
treated one (Lachin 1981). At every look, the interval spans more standard errors than z (`sequences.radius`), which is
the price of looking: about 3 instead of 2.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from fleet.domain.stats.estimates import Unjudgeable
from fleet.domain.stats.sequences import radius

MAX_DEVICES: Final = 100_000_000
_SIDES: Final = (1, 2)


@dataclass(frozen=True)
class Goal:
    """What a comparison has to see: an `effect` between devices that vary by `unit_sd`, with chance `power`."""

    effect: float
    unit_sd: float
    alpha: float
    power: float = 0.8
    sides: int = 1
    controls_per_treated: float = 1.0

    @property
    def problem(self) -> str:
        """Why it cannot be planned for; empty if it can."""
        if not (
            0 < self.effect < math.inf and 0 < self.unit_sd < math.inf and 0 < self.controls_per_treated < math.inf
        ):
            return "expected an effect, a spread and a share of controls above zero"
        if not (0 < self.alpha < 1 and 0 < self.power < 1 and self.sides in _SIDES):
            return "expected an error and a power between 0 and 1, and one side or two"
        return ""


@dataclass(frozen=True)
class SampleSize:
    """Devices of each arm; `multiplier` is how many standard errors the interval spans."""

    treated: int
    control: int
    multiplier: float


def one_look(goal: Goal) -> SampleSize | Unjudgeable:
    """For a comparison at a time that is fixed beforehand."""
    if goal.problem:
        return Unjudgeable(goal.problem)
    multiplier = NormalDist().inv_cdf(1 - goal.alpha / goal.sides)
    treated = (multiplier + NormalDist().inv_cdf(goal.power)) ** 2 * _variance(goal) / goal.effect**2
    return _size(goal, math.ceil(treated), multiplier)


def every_look(goal: Goal) -> SampleSize | Unjudgeable:
    """For a comparison that may be looked at whenever; the least number that suffices, by bisection."""
    if goal.problem:
        return Unjudgeable(goal.problem)
    low, high = 1, 2
    while not _suffices(goal, high):
        low, high = high, high * 2
        if high > MAX_DEVICES:
            return Unjudgeable(f"expected at most {MAX_DEVICES} devices to suffice: the effect is too small to see")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _suffices(goal, middle) else (middle, high)
    return _size(goal, high, _multiplier(goal, high))


def detectable(goal: Goal, treated: int) -> float | Unjudgeable:
    """The smallest effect that so many treated devices see with the goal's power, at every look; `effect` is unused."""
    if goal.problem or treated < 1:
        return Unjudgeable(goal.problem or "expected at least one treated device")
    multiplier = _multiplier(goal, treated)
    if math.isinf(multiplier):
        return Unjudgeable(f"expected more devices: {treated} decide nothing whatever they measure")
    return (multiplier + NormalDist().inv_cdf(goal.power)) * math.sqrt(_variance(goal) / treated)


def duration_s(needed: int, present: int, arriving_per_s: float) -> float | Unjudgeable:
    """How long until `needed` devices are there, if so many arrive per second."""
    if needed <= present:
        return 0.0
    if not 0 < arriving_per_s < math.inf:
        return Unjudgeable(f"expected devices to arrive: {needed} are needed, {present} are there")
    return (needed - present) / arriving_per_s


def _variance(goal: Goal) -> float:
    return goal.unit_sd**2 * (1 + 1 / goal.controls_per_treated)


def _suffices(goal: Goal, treated: int) -> bool:
    found = detectable(goal, treated)
    return not isinstance(found, Unjudgeable) and found <= goal.effect


def _multiplier(goal: Goal, treated: int) -> float:
    """With the plan fulfilled: the data are as many as were planned for."""
    df = treated * (1 + goal.controls_per_treated) - 2
    return radius(goal.alpha, df=df, size=1.0, planned=1.0, planned_df=max(df, 1.0), sides=goal.sides)


def _size(goal: Goal, treated: int, multiplier: float) -> SampleSize:
    return SampleSize(treated, math.ceil(treated * goal.controls_per_treated), multiplier)
