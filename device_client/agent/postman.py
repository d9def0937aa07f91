"""Gets the outbox to the server: sends what waits, forgets exactly what is acknowledged, sends again what is not."""

from collections.abc import Sequence
from typing import Final

from device_client.agent.reports import label_draft, window_draft
from device_client.ports import Broker, Clock, Draft, Meter, Outbox
from device_client.wire import topics
from device_client.wire.limits import MAX_LABELS_PER_MESSAGE
from device_client.wire.messages import Ack
from device_client.wire.topics import Up

RESEND_S: Final = 20.0
MAX_UNACKNOWLEDGED: Final = 50
MAX_UNWRITTEN: Final = 512  # messages in memory while the disk takes none: hours of windows, about a megabyte


class Postman:
    """One device's outgoing mail. Used by the agent's own thread."""

    def __init__(self, *, device_id: str, outbox: Outbox, broker: Broker, meter: Meter, clock: Clock) -> None:
        self._device_id = device_id
        self._outbox = outbox
        self._broker = broker
        self._meter = meter
        self._clock = clock
        self._in_flight: dict[int, float] = {}
        self._unwritten: list[tuple[Up, Draft]] = []
        self._lost = 0

    def reconnected(self) -> None:
        """Whatever was in flight on the old connection may be lost."""
        self._in_flight.clear()

    def collect(self, *, clock_trusted: bool, rss_bytes: int, everything: bool = False) -> None:
        """Put finished windows and new labels into the outbox.

        What a full disk does not take waits in memory; the oldest beyond `MAX_UNWRITTEN` are dropped and counted.
        """
        messages: list[tuple[Up, Draft]] = [
            (
                Up.TELEMETRY,
                window_draft(window, ended_at=ended_at, clock_trusted=clock_trusted, rss_bytes=rss_bytes),
            )
            for window, ended_at in self._meter.take_windows(everything=everything)
        ]
        labels = self._meter.take_labels()
        messages += [
            (Up.LABEL, label_draft(tuple(labels[start : start + MAX_LABELS_PER_MESSAGE])))
            for start in range(0, len(labels), MAX_LABELS_PER_MESSAGE)
        ]
        self._unwritten += messages
        excess = max(0, len(self._unwritten) - MAX_UNWRITTEN)
        del self._unwritten[:excess]
        self._lost += excess
        if self._unwritten:
            self._outbox.add(self._unwritten, lost=self._lost)
            self._unwritten, self._lost = [], 0

    def deliver(self) -> None:
        """Hand what waits to the broker, oldest first, within the limit of what may be unacknowledged."""
        now = self._clock.monotonic()
        for seq in [seq for seq, sent_at in self._in_flight.items() if now - sent_at >= RESEND_S]:
            del self._in_flight[seq]
        room = MAX_UNACKNOWLEDGED - len(self._in_flight)
        waiting = self._outbox.pending(room, beyond=self._in_flight) if room > 0 else []
        if not waiting:
            return
        self._outbox.sent([item.key.seq for item in waiting])
        for item in waiting:
            if not self._broker.publish(topics.up(self._device_id, item.kind), item.payload):
                return
            self._in_flight[item.key.seq] = now

    def acknowledged(self, ack: Ack) -> None:
        """Forget these very messages."""
        self._forget(ack.seqs)
        self._outbox.acknowledge(ack.boot, ack.seqs)

    def _forget(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            self._in_flight.pop(seq, None)
