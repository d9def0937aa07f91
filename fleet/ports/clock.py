"""What time it is. Pure code takes `now` as an argument; only the outermost layer owns a Clock."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The time of day, and a clock that never runs backwards."""

    def now(self) -> datetime:
        """The current moment, timezone-aware, in UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; only differences mean anything."""
        ...
