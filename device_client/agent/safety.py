"""Runs one event's action so that a bad event does not end the agent, and a full disk does not fill the log."""

import logging
from typing import Final

from device_client.agent.jobs import Continuation
from device_client.core.errors import DeviceError, StorageError, UnexpectedEventError
from device_client.ports import Clock

log = logging.getLogger(__name__)

SAY_AGAIN_S: Final = 60.0


class Safely:
    """Calls what it is given; what goes wrong is a line in the log. The same trouble of the disk is one line a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said = ""
        self._said_at = 0.0
        self._unsaid = 0

    def __call__(self, action: Continuation) -> None:
        try:
            action()
        except UnexpectedEventError as error:
            log.warning("dropped: %s", error)
        except StorageError as error:
            self._trouble(str(error))
        except DeviceError:
            log.exception("an event could not be dealt with")

    def _trouble(self, sentence: str) -> None:
        now = self._clock.monotonic()
        if sentence == self._said and now - self._said_at < SAY_AGAIN_S:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} times more since the last line)" if self._unsaid else ""
        log.error("%s%s", sentence, more)
        self._said, self._said_at, self._unsaid = sentence, now, 0
