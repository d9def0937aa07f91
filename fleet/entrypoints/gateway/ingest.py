"""Takes what devices report from the broker into the database.

The order that makes it safe: store a batch in one transaction, commit, acknowledge to the broker, then tell the devices
exactly which (boot, seq) they may forget. A crash anywhere in between means that messages come again, and messages that
come again change nothing. A message that cannot be parsed or stored is counted and let go; it never stops the others.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from device_client.wire.errors import WireError
from device_client.wire.messages import Ack, LabelBatch, Presence, StateReport, TelemetryWindow
from device_client.wire.topics import Down, Up, down, every_up, parse_up
from fleet.apps.telemetry import services as telemetry
from fleet.apps.telemetry.records import Dropped, DurableKey, Incoming, Report
from fleet.entrypoints.gateway.lifecycle import PUBLISH_S, StoppedError, with_database
from fleet.ports.broker import Broker, BrokerError, Delivery, Message
from fleet.ports.clock import Clock

logger = logging.getLogger(__name__)

BATCH_MESSAGES: Final = 200
BATCH_S: Final = 0.2
SUMMARY_S: Final = 60.0
SHARE: Final = "ingest"

_PARSERS: Final[Mapping[Up, Callable[[bytes], Report]]] = {
    Up.STATE: StateReport.parse,
    Up.TELEMETRY: TelemetryWindow.parse,
    Up.LABEL: LabelBatch.parse,
    Up.PRESENCE: Presence.parse,
}


class Ingest:
    """One ingest worker. Several may run: they share the subscription, and the database keeps them apart."""

    def __init__(self, broker: Broker, clock: Clock, stop: threading.Event) -> None:
        self._broker = broker
        self._clock = clock
        self._stop = stop
        self._inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._stored = 0
        self._dropped = 0

    def run(self) -> None:
        """Work until told to stop. What is not acknowledged by then stays with the broker."""
        self._broker.subscribe([f"$share/{SHARE}/{every_up(kind)}" for kind in _PARSERS], self._inbox.put)
        self._broker.start()
        logger.info("ingest started")
        said_at_s = self._clock.monotonic_s()
        try:
            while not self._stop.is_set():
                batch = self._collect()
                if batch:
                    self.take(batch)
                if self._clock.monotonic_s() - said_at_s >= SUMMARY_S:
                    said_at_s = self._clock.monotonic_s()
                    self._summarise()
        except StoppedError:
            logger.info("stopped while the database did not answer; the broker keeps what was not stored")
        finally:
            self._broker.stop()
            logger.info("ingest stopped")

    def take(self, batch: Sequence[Delivery]) -> None:
        """Store one batch, acknowledge it to the broker, tell the devices what they may forget."""
        incoming, dropped = _parse(batch)
        durable = self._store(incoming, dropped)
        if dropped:
            with_database(lambda: telemetry.count_all_dropped(dropped=dropped, now=self._clock.now()), self._stop)
        for delivery in batch:
            delivery.acknowledge()
        self._stored += len(durable)
        self._dropped += len(dropped)
        self._acknowledge(durable)

    def _store(self, incoming: Sequence[Incoming], dropped: list[Dropped]) -> tuple[DurableKey, ...]:
        """Store all at once; if the database refuses that, one by one, so that only what is poisonous is lost."""
        if not incoming:
            return ()
        try:
            return with_database(lambda: telemetry.take_in(messages=incoming, now=self._clock.now()), self._stop)
        except StoppedError:
            raise
        except Exception as error:
            if len(incoming) > 1:
                logger.warning("a batch of %d was refused, storing one by one: %s", len(incoming), _line(error))
                return tuple(key for item in incoming for key in self._store([item], dropped))
            item = incoming[0]
            logger.exception("a message of %s cannot be stored and is dropped", item.device_id)
            dropped.append(Dropped(item.kind, "unstorable", item.device_id, _line(error)))
            return ()

    def _acknowledge(self, durable: Iterable[DurableKey]) -> None:
        by_boot: dict[tuple[str, str], set[int]] = {}
        for key in durable:
            by_boot.setdefault((key.device_id, key.boot), set()).add(key.seq)
        messages = [
            Message(down(device_id, Down.ACK), Ack(boot, tuple(sorted(seqs))).encode())
            for (device_id, boot), seqs in sorted(by_boot.items())
        ]
        if not messages:
            return
        try:
            self._broker.publish(*messages, timeout_s=PUBLISH_S)
        except BrokerError as error:
            # The devices send again what they were not told about, and are told then.
            logger.warning("could not tell devices what is stored: %s", error)

    def _collect(self) -> list[Delivery]:
        """Up to BATCH_MESSAGES deliveries, waiting at most BATCH_S for the first and as long for the rest."""
        batch: list[Delivery] = []
        deadline_s = self._clock.monotonic_s() + BATCH_S
        while len(batch) < BATCH_MESSAGES:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                break
            try:
                batch.append(self._inbox.get(timeout=left_s))
            except queue.Empty:
                break
        return batch

    def _summarise(self) -> None:
        if self._stored or self._dropped:
            logger.info("stored %d messages, dropped %d", self._stored, self._dropped)
        self._stored = self._dropped = 0


def _parse(batch: Iterable[Delivery]) -> tuple[list[Incoming], list[Dropped]]:
    incoming: list[Incoming] = []
    dropped: list[Dropped] = []
    for delivery in batch:
        device_id, kind = "", "topic"
        try:
            topic = parse_up(delivery.topic)
            device_id, kind = topic.device_id, topic.kind.value
            incoming.append(Incoming(device_id, _PARSERS[topic.kind](delivery.payload)))
        except WireError as error:
            dropped.append(Dropped(kind, error.code, device_id, str(error)))
    return incoming, dropped


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
