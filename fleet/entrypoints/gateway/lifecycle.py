"""What every long-lived process of the gateway does alike: stop when it is told to, survive a busy database."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, TypeVar

from django.db import InterfaceError, OperationalError, connection

logger = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
# Shorter than what a supervisor waits for a process to end, so that a broker that is away does not get it killed.
PUBLISH_S: Final = 5.0
Result = TypeVar("Result")


class StoppedError(Exception):
    """The process was told to stop while it waited for the database. Nothing was done."""


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, for the life of the block."""
    stop = threading.Event()

    def told(number: int, _frame: FrameType | None) -> None:
        logger.info("stopping (%s)", signal.Signals(number).name)
        stop.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def with_database(work: Callable[[], Result], stop: threading.Event, *, attempts: int | None = None) -> Result:
    """Do `work`, again and again with growing pauses while the database is locked, restarts or chose us to end a deadlock.

    `work` must be one transaction. After `attempts` failures the last error is raised; without a number it
    goes on until `stop` is set and then raises StoppedError. Nothing is lost meanwhile: what is not acknowledged stays
    with the broker.
    """
    failures = 0
    while True:
        try:
            return work()
        except (OperationalError, InterfaceError) as error:
            failures += 1
            # A server that restarted has forgotten this connection; a new one is made by the next query.
            connection.close()
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (failures - 1))
            logger.warning("the database did not answer, attempt %d: %s", failures, str(error).splitlines()[0])
            if attempts is not None and failures >= attempts:
                raise
            if stop.wait(pause_s):
                raise StoppedError from error
