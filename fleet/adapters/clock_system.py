"""The machine's own clocks."""

import time
from datetime import UTC, datetime


class SystemClock:
    """`fleet.ports.clock.Clock` by the operating system."""

    def now(self) -> datetime:
        """The current moment in UTC."""
        return datetime.now(tz=UTC)

    def monotonic_s(self) -> float:
        """Seconds since the machine started."""
        return time.monotonic()
