"""Clocks for tests: the time of day stands still until it is moved."""

import time
from datetime import datetime, timedelta


class FakeClock:
    """Starts at `now`. Its other clock really runs."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        """The moment that it was set to."""
        return self._now

    def monotonic_s(self) -> float:
        """Real seconds, so that what waits for a while really does."""
        return time.monotonic()

    def advance(self, seconds: float) -> None:
        """Move the time of day."""
        self._now += timedelta(seconds=seconds)


class FrozenClock(FakeClock):
    """Both of its clocks stand still."""

    def monotonic_s(self) -> float:
        """Always the same."""
        return 0.0
