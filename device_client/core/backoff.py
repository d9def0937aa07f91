"""How long to wait before trying again: exponential with full jitter (Brooker, AWS Architecture Blog, 2015)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Waits between `least_s` and a ceiling that doubles with each attempt up to `most_s`."""

    least_s: float = 0.5
    first_s: float = 1.0
    most_s: float = 120.0

    def wait_s(self, attempt: int, dice: float) -> float:
        """The wait before attempt `attempt` (0 is the first retry); `dice` is uniform in [0, 1)."""
        ceiling = min(self.most_s, self.first_s * 2.0 ** min(attempt, 32))
        return max(self.least_s, ceiling * dice)
