"""Named alarms on a monotonic clock. Not thread-safe: the agent's own thread uses it."""

from collections.abc import Callable

from device_client.ports import Clock


class Timers:
    """At most one alarm per name; setting it again replaces it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._alarms: dict[str, tuple[float, Callable[[], None]]] = {}

    def set(self, name: str, after_s: float, action: Callable[[], None]) -> None:
        """Call `action` once, `after_s` from now."""
        self._alarms[name] = (self._clock.monotonic() + after_s, action)

    def sooner(self, name: str, after_s: float, action: Callable[[], None]) -> None:
        """Like `set`, unless an earlier alarm of that name stands."""
        due_at = self._clock.monotonic() + after_s
        if name not in self._alarms or self._alarms[name][0] > due_at:
            self._alarms[name] = (due_at, action)

    def cancel(self, name: str) -> None:
        """Forget an alarm."""
        self._alarms.pop(name, None)

    def wait_s(self, longest_s: float) -> float:
        """How long until the next alarm, at most `longest_s`."""
        now = self._clock.monotonic()
        return max(0.0, min(longest_s, *(due_at - now for due_at, _ in self._alarms.values()), longest_s))

    def run_due(self, safely: Callable[[Callable[[], None]], None]) -> int:
        """Run every alarm that is due, each through `safely`; returns how many."""
        now = self._clock.monotonic()
        due = sorted((due_at, name) for name, (due_at, _) in self._alarms.items() if due_at <= now)
        for _, name in due:
            _, action = self._alarms.pop(name)
            safely(action)
        return len(due)
