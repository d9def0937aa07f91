"""Answers the checks of devices with signed bundles. Holds the online director key; nothing else does.

A check is asked again by its device if no answer comes, so nothing here is kept: what cannot be answered now is counted
or logged and let go. A bundle is only ever the answer to a nonce.
"""

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from django.db import InterfaceError, OperationalError, transaction

from device_client.wire.errors import WireError
from device_client.wire.limits import MAX_TICKETS
from device_client.wire.messages import BundleMessage, Check
from device_client.wire.topics import Down, Up, down, every_up, parse_up
from fleet.apps.assignments import services as assignments
from fleet.apps.devices import services as devices
from fleet.apps.telemetry import services as telemetry
from fleet.apps.trust import services as trust
from fleet.domain.errors import ModelfleetError
from fleet.entrypoints.gateway.lifecycle import PUBLISH_S, StoppedError, with_database
from fleet.entrypoints.gateway.rate import RateLimit
from fleet.ports.broker import Broker, BrokerError, Delivery, Message, PublishRefusedError
from fleet.ports.clock import Clock
from fleet.ports.signer import MetadataSigner

logger = logging.getLogger(__name__)

CHECKS_PER_SECOND: Final = 1.0
CHECK_BURST: Final = 20.0
DATABASE_ATTEMPTS: Final = 5
WAIT_S: Final = 0.5
SUMMARY_S: Final = 60.0
SHARE: Final = "director"


class Director:
    """One director. Several may run: they share the subscription."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        signer: MetadataSigner,
        ticket: Callable[[str], str],
        stop: threading.Event,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._signer = signer
        self._ticket = ticket
        self._stop = stop
        self._inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._rate = RateLimit(per_second=CHECKS_PER_SECOND, burst=CHECK_BURST)
        self._plans = assignments.PlanCache()
        self._answered = 0
        self._dropped = 0

    def run(self) -> None:
        """Work until told to stop."""
        self._broker.subscribe([f"$share/{SHARE}/{every_up(Up.CHECK)}"], self._inbox.put)
        self._broker.start()
        logger.info("director started")
        said_at_s = self._clock.monotonic_s()
        try:
            while not self._stop.is_set():
                with suppress(queue.Empty):
                    self.take(self._inbox.get(timeout=WAIT_S))
                if self._clock.monotonic_s() - said_at_s >= SUMMARY_S:
                    said_at_s = self._clock.monotonic_s()
                    self._summarise()
        finally:
            self._broker.stop()
            logger.info("director stopped")

    def take(self, delivery: Delivery) -> None:
        """Answer one check, or count why not. Always lets the delivery go."""
        device_id = ""
        try:
            device_id = parse_up(delivery.topic).device_id
            self._answer(device_id, delivery.payload)
        except WireError as error:
            self._drop(error.code, device_id, str(error))
        except ModelfleetError as error:
            self._drop(error.code, device_id, error.message)
        except PublishRefusedError as error:
            self._drop("bundle_refused", device_id, str(error))
        except (BrokerError, OperationalError, InterfaceError, StoppedError) as error:
            logger.warning("no answer for %s now: %s", device_id, error)
        except Exception:
            logger.exception("no answer for %s", device_id)
            self._drop("internal", device_id, "see the director's log")
        finally:
            delivery.acknowledge()

    def _answer(self, device_id: str, payload: bytes) -> None:
        if not self._rate.admits(device_id, self._clock.monotonic_s()):
            self._drop("rate_limited", device_id, f"expected at most {CHECKS_PER_SECOND:g} checks a second")
            return
        check = Check.parse(payload)
        now = self._clock.now()
        with_database(
            lambda: devices.record_check(device_id=device_id, check=check, now=now),
            self._stop,
            attempts=DATABASE_ATTEMPTS,
        )
        bundle = with_database(lambda: self._sign(device_id, check), self._stop, attempts=DATABASE_ATTEMPTS)
        self._broker.publish(Message(down(device_id, Down.BUNDLE), bundle.encode()), timeout_s=PUBLISH_S)
        self._answered += 1

    @transaction.atomic
    def _sign(self, device_id: str, check: Check) -> BundleMessage:
        """Decide and sign in one transaction: what was not signed was not offered."""
        now = self._clock.now()
        answer = assignments.answer_check(device_id=device_id, check=check, now=now, plans=self._plans)
        director = trust.sign_director_bundle(
            device_id=device_id,
            binding=answer.binding,
            targets=answer.targets,
            signer=self._signer,
            now=now,
        )
        tickets = {sha256: self._ticket(sha256) for sha256 in answer.tickets_for[:MAX_TICKETS]}
        return BundleMessage(check.nonce, director, tickets)

    def _summarise(self) -> None:
        if self._answered or self._dropped:
            logger.info("answered %d checks, dropped %d", self._answered, self._dropped)
        self._answered = self._dropped = 0

    def _drop(self, code: str, device_id: str, detail: str) -> None:
        self._dropped += 1
        try:
            with_database(
                lambda: telemetry.count_dropped(
                    kind=Up.CHECK.value, code=code, device_id=device_id, detail=detail, now=self._clock.now()
                ),
                self._stop,
                attempts=DATABASE_ATTEMPTS,
            )
        except (OperationalError, InterfaceError, StoppedError):
            logger.warning("dropped a check of %s and could not count it: %s", device_id, detail)
