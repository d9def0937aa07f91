"""Keeping the certificate alive: looks at it now and then, renews it at half its life, reconnects with the new one.

Failure costs a log line and a back-off, never an inference or a connection that stands. Used by the agent's own thread;
the request runs in a lane of its own. When to renew is `core.renewal`'s to say.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Final

from device_client.agent.jobs import Continuation, Jobs
from device_client.agent.timers import Timers
from device_client.core import renewal
from device_client.core.errors import DeviceError
from device_client.core.keys import FLOOR_KEY, RENEWAL_TROUBLE_KEY, RENEWED_KEY
from device_client.core.renewal import Validity
from device_client.ports import Broker, Clock, Identity, Journal

log = logging.getLogger(__name__)

LANE: Final = "identity"
TIMER: Final = "renewal"


class Renewals:
    """This device's certificate over the years."""

    def __init__(
        self,
        *,
        identity: Identity,
        journal: Journal,
        broker: Broker,
        jobs: Jobs,
        timers: Timers,
        clock: Clock,
        dice: Callable[[], float],
    ) -> None:
        self._identity = identity
        self._journal = journal
        self._broker = broker
        self._jobs = jobs
        self._timers = timers
        self._clock = clock
        self._dice = dice
        self._attempt = 0

    def before_connecting(self, connect: Continuation) -> None:
        """Connect; with a lapsed certificate, which no broker takes, renew it first.

        If that fails, connect all the same: it may be the clock that is wrong, and not the certificate.
        """
        try:
            validity, now = self._identity.validity(), self._now()
            lapsed = renewal.has_lapsed(validity, now) and self._is_due(validity, now)
        except DeviceError as error:
            log.warning("the certificate cannot be read: %s", error)
            lapsed = False
        if lapsed:
            log.warning("the certificate has lapsed; it is renewed before anything else")
            self._renew(connect)
        else:
            self._timers.set(TIMER, renewal.FIRST_LOOK_WITHIN_S * self._dice(), self._look)
            connect()

    def _look(self) -> None:
        """Renew if it is time; look again in about an hour, since the clock may be put right in between."""
        self._look_later()
        if self._is_due(self._identity.validity(), self._now()):
            self._renew(lambda: None)

    def _look_later(self) -> None:
        self._timers.set(TIMER, renewal.LOOK_EVERY_S * (0.5 + self._dice()), self._look)

    def _renew(self, afterwards: Continuation) -> None:
        """Ask in the lane; no second request while one is under way."""
        self._timers.cancel(TIMER)

        def job() -> Continuation:
            try:
                validity = self._identity.renew()
            except Exception as error:  # noqa: BLE001 - whatever a server sends, the next attempt must be made
                refusal = str(error) if isinstance(error, DeviceError) else f"{type(error).__name__}: {error}"
                return lambda: self._failed(refusal[:300], afterwards)
            return lambda: self._renewed(validity, afterwards)

        self._jobs.submit(LANE, job)

    def _renewed(self, validity: Validity, afterwards: Continuation) -> None:
        self._attempt = 0
        self._look_later()
        log.info("the certificate was renewed; it is valid until %s", validity.not_after_at.isoformat())
        received = f"{_seconds(self._now())} {_seconds(validity.not_after_at)}"
        self._journal.remember({RENEWED_KEY: received, RENEWAL_TROUBLE_KEY: ""})
        try:
            self._broker.renew_identity()
        finally:
            afterwards()

    def _failed(self, refusal: str, afterwards: Continuation) -> None:
        wait_s = renewal.RETRY.wait_s(self._attempt, 0.5 + 0.5 * self._dice())
        self._attempt += 1
        self._timers.set(TIMER, wait_s, self._look)
        log.warning("the certificate was not renewed; next attempt in %.0f s: %s", wait_s, refusal)
        self._journal.remember({RENEWAL_TROUBLE_KEY: refusal})
        afterwards()

    def _now(self) -> datetime:
        floor = int(self._journal.recall(FLOOR_KEY) or 0)
        return renewal.best_time(self._clock.now(), _moment(floor) if floor else None)

    def _is_due(self, validity: Validity, now: datetime) -> bool:
        """When a certificate came is known of the last one only: another may have been put back from a copy."""
        received_at, _, not_after = (self._journal.recall(RENEWED_KEY) or "").partition(" ")
        known = not_after == str(_seconds(validity.not_after_at))
        return renewal.is_due(validity, _moment(int(received_at)) if known else None, now)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=timezone.utc)
