"""One number per device, one vote per device: where an arm lies, plainly and without devices that stand far apart.

Outliers are found by the arm's own median and median absolute deviation (Hampel, JASA 69, 1974), never by those of both
arms together, which would take the effect away with the extremes; at most a share `MAX_TRIM` goes at either end. The mean
of the h devices that stay has the variance SSD / (h * (h - 1)), SSD being the sum of squares of the winsorised values (Tukey
and McLaughlin, Sankhya A 25, 1963; Yuen, Biometrika 61, 1974). So a tenth of lying devices hardly moves an arm, whatever
they say, and where nobody lies next to nothing is lost.

Both places are kept, because they are blind to different things: the plain mean believes liars, the trimmed one cannot
see a version that breaks a few devices completely. More than `MAX_TRIM` of broken devices are seen by both.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

# Below this, leaving out extremes would leave too little; a liar among few devices widens the interval instead.
TRIM_FROM: Final = 20
MAX_TRIM: Final = 0.15
OUTLIER: Final = 2.0  # robust standard deviations from the median
OUTLIER_NOISE: Final = 3.0  # and at least so many standard deviations of a device's own noise
MAD_TO_SD: Final = 1.482602218505602  # of a normal distribution


@dataclass(frozen=True)
class Location:
    """A mean of `n` devices, each of which has `unit_variance`; `floor` is the least variance the mean can have."""

    n: int = 0
    value: float = 0.0
    unit_variance: float = 0.0
    floor: float = 0.0

    @property
    def variance(self) -> float:
        """Of the mean."""
        return max(self.unit_variance / self.n, self.floor)


@dataclass(frozen=True)
class Sample:
    """The sufficient statistics of one arm."""

    plain: Location = field(default_factory=Location)
    trimmed: Location = field(default_factory=Location)

    @property
    def devices(self) -> int:
        """All of them, those that were trimmed too."""
        return self.plain.n

    @classmethod
    def of(cls, values: Sequence[float], *, noise: float = 0.0) -> "Sample":
        """Of one value per device. `noise` is the variance that one device's value has of its own, on average."""
        if not values:
            return cls()
        ordered = sorted(values)
        plain = location(ordered, 0, 0, noise=noise)
        low, high = outliers(ordered, noise=noise)
        return cls(plain, location(ordered, low, high, noise=noise) if low or high else plain)


def outliers(ordered: Sequence[float], *, noise: float = 0.0) -> tuple[int, int]:
    """How many of the lowest and of the highest are left out; none of fewer than `TRIM_FROM`.

    Nor is a device one whose own noise explains it: where events are rare, most devices have none and agree exactly, and
    every other would stand apart. Arms cut by such chances differ although nothing does (simulated: 1.6 times the error).
    """
    if len(ordered) < TRIM_FROM:
        return 0, 0
    middle = median(ordered)
    below = bisect_left(ordered, middle)
    apart = [middle - value for value in ordered[:below]] + [value - middle for value in ordered[below:]]
    spread = MAD_TO_SD * median(apart)
    reach = max(OUTLIER * spread, OUTLIER_NOISE * math.sqrt(noise))
    most = math.floor(MAX_TRIM * len(ordered))
    low, high = bisect_left(ordered, middle - reach), len(ordered) - bisect_right(ordered, middle + reach)
    return min(low, most), min(high, most)


def location(ordered: Sequence[float], low: int, high: int, *, noise: float = 0.0) -> Location:
    """Without so many of the lowest and highest of these ascending values; at least one must stay."""
    kept = ordered[low : len(ordered) - high]
    h = len(kept)
    mean = math.fsum(kept) / h
    first, last = kept[0], kept[-1]
    winsorised = (h * mean + low * first + high * last) / len(ordered)
    squares = math.fsum([(value - winsorised) ** 2 for value in kept])
    squares += low * (first - winsorised) ** 2 + high * (last - winsorised) ** 2
    return Location(h, mean, squares / (h - 1) if h > 1 else 0.0, noise / h)
