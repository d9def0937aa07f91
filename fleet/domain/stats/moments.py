"""The count, mean and spread of one number per device. Merges exactly as if all values had come at once.

Chan, Golub and LeVeque (1979): squares are kept around the mean, so that a small spread about a large mean is not lost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Moments:
    """`squares` is the sum of squared distances from the mean."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> "Moments":
        """The moments of these values."""
        if not values:
            return cls()
        mean = math.fsum(values) / len(values)
        return cls(len(values), mean, math.fsum((value - mean) ** 2 for value in values))

    @classmethod
    def of_sums(cls, n: int, total: float, total_of_squares: float) -> "Moments":
        """From a sum and a sum of squares, as they are stored."""
        mean = total / n if n else 0.0
        return cls(n, mean, max(0.0, total_of_squares - n * mean * mean))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both; they must be of different devices."""
        n = self.n + other.n
        if self.n == 0 or other.n == 0:
            return self if other.n == 0 else other
        apart = other.mean - self.mean
        return Moments(
            n,
            (self.n * self.mean + other.n * other.mean) / n,
            self.squares + other.squares + apart * apart * self.n * other.n / n,
        )

    @property
    def variance(self) -> float:
        """Of one device; needs two."""
        return self.squares / (self.n - 1)
