"""Asks again until something holds or time is up."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

POLL_S: Final = 0.5
SLOW_POLL_S: Final = 2.0
SLOW_AFTER_S: Final = 60.0

Found = TypeVar("Found")


def poll(
    ask: Callable[[], Found | None],
    *,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Found | None:
    """What `ask` returns first that is not None; None after `timeout_s`. Asks at least once."""
    started = clock()
    while True:
        found = ask()
        if found is not None:
            return found
        waited = clock() - started
        if waited >= timeout_s:
            return None
        pause(min(POLL_S if waited < SLOW_AFTER_S else SLOW_POLL_S, timeout_s - waited))
