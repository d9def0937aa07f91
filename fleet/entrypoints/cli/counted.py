"""Waits for answers that a large fleet has to be counted for."""

from collections.abc import Callable
from typing import Final

from fleet.entrypoints.cli.api import JsonObject
from fleet.entrypoints.cli.errors import CommandError
from fleet.entrypoints.cli.polling import poll

TIMEOUT_S: Final = 300.0


def counted(ask: Callable[[], JsonObject]) -> JsonObject:
    """What `ask` is answered once the fleet is counted; raises `CommandError` if nobody counts it in time."""

    def answered() -> JsonObject | None:
        found = ask()
        return None if found.get("state") == "counting" else found

    found = poll(answered, timeout_s=TIMEOUT_S)
    if found is None:
        raise CommandError("not_counted", f"the devices were not counted within {TIMEOUT_S:g} s: is a worker running?")
    return found
