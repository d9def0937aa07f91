"""A broker in memory: `fleet.ports.broker.Broker` without a network.

`FakeHub` is the broker, `FakeBroker` one client of it. Sessions, retained messages, shared subscriptions and redelivery
behave as in mosquitto; the contract test runs on both. Handlers are called on a thread of the client's, as the real ones.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

from device_client.wire.limits import MAX_MESSAGE_BYTES
from fleet.ports.broker import BrokerUnavailableError, Delivery, Message, PublishRefusedError


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT's rule for `+` and a trailing `#`."""
    wanted, given = topic_filter.split("/"), topic.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(given) or level not in {"+", given[position]}:
            return False
    return len(wanted) == len(given)


def _split_share(topic_filter: str) -> tuple[str | None, str]:
    if topic_filter.startswith("$share/"):
        _, group, plain = topic_filter.split("/", 2)
        return group, plain
    return None, topic_filter


@dataclass
class _Session:
    """What the hub keeps for a client id, connected or not."""

    filters: set[str] = field(default_factory=set)
    unacknowledged: dict[int, Message] = field(default_factory=dict)
    client: "FakeBroker | None" = None


class FakeHub:
    """The broker itself. `available = False` is a broker that does not answer."""

    def __init__(self) -> None:
        self.available = True
        self.retained: dict[str, Message] = {}
        self.published: list[Message] = []
        self._lock = threading.RLock()
        self._sessions: dict[str, _Session] = {}
        self._turns: dict[str, int] = {}
        self._ids = count(1)

    def attach(self, client_id: str, filters: Iterable[str], client: "FakeBroker") -> None:
        """Connect a client: resume its session, deliver again what it never acknowledged."""
        with self._lock:
            session = self._sessions.setdefault(client_id, _Session())
            session.client = client
            for packet_id, message in session.unacknowledged.items():
                client.receive(packet_id, message)
            new = set(filters) - session.filters
            session.filters |= new
            for topic_filter in new:
                group, plain = _split_share(topic_filter)
                for message in self.retained.values():
                    if group is None and matches(plain, message.topic):
                        self._give(session, message)

    def detach(self, client_id: str) -> None:
        """Disconnect a client; its session stays."""
        with self._lock:
            self._sessions[client_id].client = None

    def acknowledge(self, client_id: str, packet_id: int) -> None:
        """Forget a delivery."""
        with self._lock:
            self._sessions[client_id].unacknowledged.pop(packet_id, None)

    def publish(self, message: Message) -> None:
        """Hand a message to every subscriber and to one of each sharing group."""
        with self._lock:
            self.published.append(message)
            if message.retain and message.payload:
                self.retained[message.topic] = message
            elif message.retain:
                self.retained.pop(message.topic, None)
            groups: dict[str, list[_Session]] = {}
            for session in self._sessions.values():
                for topic_filter in session.filters:
                    group, plain = _split_share(topic_filter)
                    if not matches(plain, message.topic):
                        continue
                    if group is None:
                        self._give(session, message)
                    else:
                        groups.setdefault(topic_filter, []).append(session)
            for shared, members in groups.items():
                turn = self._turns[shared] = self._turns.get(shared, -1) + 1
                self._give(members[turn % len(members)], message)

    def _give(self, session: _Session, message: Message) -> None:
        packet_id = next(self._ids)
        session.unacknowledged[packet_id] = message
        if session.client is not None:
            session.client.receive(packet_id, message)


class FakeBroker:
    """One client of a `FakeHub`. `may_publish` is what its identity has the right to."""

    def __init__(self, hub: FakeHub, client_id: str, may_publish: Sequence[str] = ("#",)) -> None:
        self._hub = hub
        self._client_id = client_id
        self._may_publish = tuple(may_publish)
        self._handlers: list[tuple[str, Callable[[Delivery], None]]] = []
        self._inbox: queue.SimpleQueue[tuple[int, Message] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection = 0

    def subscribe(self, filters: Sequence[str], handler: Callable[[Delivery], None]) -> None:
        """Have `handler` called with what arrives."""
        self._handlers += [(topic_filter, handler) for topic_filter in filters]

    def start(self) -> None:
        """Connect."""
        self._connection += 1
        self._thread = threading.Thread(target=self._run, args=(self._connection,), daemon=True)
        self._thread.start()
        self._hub.attach(self._client_id, [topic_filter for topic_filter, _ in self._handlers], self)

    def wait_ready(self, timeout_s: float) -> bool:
        """Connected as soon as it was started, if the hub answers."""
        return self._thread is not None and self._hub.available

    def publish(self, *messages: Message, timeout_s: float = 10.0) -> None:
        """Hand the messages to the hub."""
        for message in messages:
            if len(message.payload) + len(message.topic) > MAX_MESSAGE_BYTES - 32:
                raise PublishRefusedError(f"{message.topic}: too long")
        if not self.wait_ready(timeout_s):
            raise BrokerUnavailableError("the hub does not answer")
        allowed = [m for m in messages if any(matches(right, m.topic) for right in self._may_publish)]
        for message in allowed:
            self._hub.publish(message)
        for message in messages:
            if message not in allowed:
                raise PublishRefusedError(f"{message.topic}: Not authorized")

    def stop(self) -> None:
        """Disconnect."""
        if self._thread is None:
            return
        self._hub.detach(self._client_id)
        self._connection += 1
        self._inbox.put(None)
        self._thread.join()
        self._thread = None
        self._inbox = queue.SimpleQueue()

    def receive(self, packet_id: int, message: Message) -> None:
        """Called by the hub."""
        self._inbox.put((packet_id, message))

    def _run(self, connection: int) -> None:
        inbox = self._inbox
        while (item := inbox.get()) is not None:
            packet_id, message = item

            def acknowledge(packet_id: int = packet_id) -> None:
                if connection == self._connection:
                    self._hub.acknowledge(self._client_id, packet_id)

            for topic_filter, handler in self._handlers:
                if matches(_split_share(topic_filter)[1], message.topic):
                    # As in the real one, a handler that fails leaves its delivery unacknowledged.
                    with suppress(Exception):
                        handler(Delivery(message.topic, message.payload, acknowledge))
