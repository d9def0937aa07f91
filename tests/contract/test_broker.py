"""The contract of `fleet.ports.broker`, on the fake and on a real mosquitto with mutual TLS."""

import queue
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from device_client.wire.limits import MAX_MESSAGE_BYTES
from fleet.adapters.broker_mqtt import MAX_OUTSTANDING
from fleet.ports.broker import Broker, BrokerUnavailableError, Delivery, Message, PublishRefusedError
from tests.embedded_broker import EmbeddedBroker
from tests.fakes.broker import FakeBroker, FakeHub

WITHIN_S = 60.0
NOTHING_S = 0.4
FAKE_RIGHTS = {"_ingest": ["fleet/v1/d/+/down/ack"], "_publisher": ["fleet/v1/plan/+"]}

Inbox = queue.Queue[Delivery]


@dataclass
class World:
    """A broker and its clients. Devices report to `_ingest`, `_publisher` writes plan notices."""

    connect: Callable[[str, str], Broker]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    """Keeps tests apart that share a broker: it stands in every device id and topic."""
    started: list[Broker] = field(default_factory=list)

    @property
    def reports(self) -> str:
        return f"fleet/v1/d/dev-{self.mark}/up/state"

    @property
    def plan(self) -> str:
        return f"fleet/v1/plan/{self.mark}"

    def device(self) -> Broker:
        return self.begin(self.connect(f"dev-{self.mark}", "only"))

    def ours(self, identity: str, member: str = "1") -> Broker:
        return self.connect(identity, f"{self.mark}-{member}")

    def begin(self, broker: Broker) -> Broker:
        broker.start()
        self.started.append(broker)
        assert broker.wait_ready(WITHIN_S)
        return broker

    def end(self, broker: Broker) -> None:
        broker.stop()
        self.started.remove(broker)

    def listening(self, *filters: str, identity: str = "_ingest", member: str = "1") -> tuple[Broker, Inbox]:
        inbox: Inbox = queue.Queue()
        broker = self.ours(identity, member)
        broker.subscribe(filters, inbox.put)
        return self.begin(broker), inbox


def fake_world() -> World:
    hub = FakeHub()

    def connect(identity: str, member: str) -> Broker:
        rights = FAKE_RIGHTS.get(identity, [f"fleet/v1/d/{identity}/up/#"])
        return FakeBroker(hub, f"{identity}-{member}", rights)

    return World(connect)


def real_world(embedded: EmbeddedBroker) -> World:
    def connect(identity: str, member: str) -> Broker:
        if identity.startswith("_"):
            return embedded.client(identity, member=member)
        return embedded.device_client(identity)

    return World(connect)


@pytest.fixture(params=["fake", "mosquitto"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    found = fake_world() if request.param == "fake" else real_world(request.getfixturevalue("embedded_broker"))
    yield found
    for broker in list(found.started):
        found.end(broker)


def expect_nothing(inbox: Inbox) -> None:
    with pytest.raises(queue.Empty):
        inbox.get(timeout=NOTHING_S)


def test_publish__someone_subscribes__message_is_delivered(world: World) -> None:
    _, inbox = world.listening(world.reports)
    world.device().publish(Message(world.reports, b"\x00one"))
    delivery = inbox.get(timeout=WITHIN_S)
    assert (delivery.topic, delivery.payload) == (world.reports, b"\x00one")


def test_publish__many_at_once__all_are_delivered_in_order(world: World) -> None:
    _, inbox = world.listening(world.reports)
    payloads = [b"%d" % number for number in range(3 * MAX_OUTSTANDING)]
    world.device().publish(*(Message(world.reports, payload) for payload in payloads))
    received = []
    for _ in payloads:
        delivery = inbox.get(timeout=WITHIN_S)
        delivery.acknowledge()
        received.append(delivery.payload)
    assert received == payloads


def test_publish__from_several_threads__all_are_delivered(world: World) -> None:
    _, inbox = world.listening(world.reports)
    device = world.device()

    def report(numbers: range) -> None:
        for number in numbers:
            device.publish(Message(world.reports, b"%d" % number))

    parts = (range(50), range(50, 100), range(100, 150))
    threads = [threading.Thread(target=report, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {int(inbox.get(timeout=WITHIN_S).payload) for _ in range(150)} == set(range(150))


def test_publish__no_right_to_the_topic__refused_for_good_and_not_delivered(world: World) -> None:
    foreign = f"fleet/v1/d/other-{world.mark}/up/state"
    _, inbox = world.listening("fleet/v1/d/+/up/state")
    device = world.device()
    with pytest.raises(PublishRefusedError) as caught:
        device.publish(Message(foreign, b"forged"), Message(world.reports, b"honest"))
    assert caught.value.permanent
    assert [inbox.get(timeout=WITHIN_S).payload] == [b"honest"]
    expect_nothing(inbox)


def test_publish__longer_than_the_broker_takes__refused_and_the_connection_lives(world: World) -> None:
    _, inbox = world.listening(world.reports)
    device = world.device()
    with pytest.raises(PublishRefusedError):
        device.publish(Message(world.reports, bytes(MAX_MESSAGE_BYTES)))
    longest = bytes(MAX_MESSAGE_BYTES - 32 - len(world.reports))
    device.publish(Message(world.reports, longest))
    assert inbox.get(timeout=WITHIN_S).payload == longest


def test_delivery__acknowledged__not_delivered_to_the_next_connection(world: World) -> None:
    consumer, inbox = world.listening(world.reports)
    world.device().publish(Message(world.reports, b"once"))
    delivery = inbox.get(timeout=WITHIN_S)
    delivery.acknowledge()
    delivery.acknowledge()
    world.end(consumer)
    _, again = world.listening(world.reports)
    expect_nothing(again)


def test_delivery__not_acknowledged__delivered_to_the_next_connection(world: World) -> None:
    consumer, inbox = world.listening(world.reports)
    world.device().publish(Message(world.reports, b"keep me"))
    late = inbox.get(timeout=WITHIN_S)
    world.end(consumer)
    consumer, again = world.listening(world.reports)
    assert again.get(timeout=WITHIN_S).payload == b"keep me"
    # The first connection's acknowledgement means nothing on the second.
    late.acknowledge()
    world.end(consumer)
    _, third = world.listening(world.reports)
    assert third.get(timeout=WITHIN_S).payload == b"keep me"


def test_delivery__while_the_consumer_is_away__waits_for_it(world: World) -> None:
    consumer, _ = world.listening(world.reports)
    world.end(consumer)
    world.device().publish(Message(world.reports, b"meanwhile"))
    _, inbox = world.listening(world.reports)
    assert inbox.get(timeout=WITHIN_S).payload == b"meanwhile"


def test_delivery__handler_raises__later_messages_still_arrive(world: World) -> None:
    seen: queue.Queue[bytes] = queue.Queue()

    def handler(delivery: Delivery) -> None:
        seen.put(delivery.payload)
        if delivery.payload == b"poison":
            raise ValueError("cannot read this")

    consumer = world.ours("_ingest")
    consumer.subscribe([world.reports], handler)
    world.begin(consumer)
    world.device().publish(Message(world.reports, b"poison"), Message(world.reports, b"good"))
    assert [seen.get(timeout=WITHIN_S), seen.get(timeout=WITHIN_S)] == [b"poison", b"good"]


def test_shared_subscription__two_members__each_message_goes_to_one(world: World) -> None:
    shared = f"$share/{world.mark}/{world.reports}"
    _, first = world.listening(shared, member="1")
    _, second = world.listening(shared, member="2")
    world.device().publish(*(Message(world.reports, b"%d" % number) for number in range(20)))
    received: list[int] = []
    for inbox in (first, second):
        mine = []
        while True:
            try:
                delivery = inbox.get(timeout=NOTHING_S)
            except queue.Empty:
                break
            delivery.acknowledge()
            mine.append(int(delivery.payload))
        assert mine
        received += mine
    assert sorted(received) == list(range(20))


def test_retained_message__later_subscriber__gets_the_last_one(world: World) -> None:
    publisher = world.begin(world.ours("_publisher"))
    publisher.publish(Message(world.plan, b"first", retain=True))
    publisher.publish(Message(world.plan, b"second", retain=True))
    _, inbox = world.listening(world.plan)
    assert inbox.get(timeout=WITHIN_S).payload == b"second"
    expect_nothing(inbox)


def test_retained_message__empty_one_published__is_gone_for_later_subscribers(world: World) -> None:
    publisher = world.begin(world.ours("_publisher"))
    publisher.publish(Message(world.plan, b"first", retain=True))
    publisher.publish(Message(world.plan, b"", retain=True))
    _, inbox = world.listening(world.plan)
    expect_nothing(inbox)


def test_publish__never_started__unavailable_in_time(world: World) -> None:
    with pytest.raises(BrokerUnavailableError) as caught:
        world.ours("_publisher").publish(Message(world.plan, b"x"), timeout_s=0.2)
    assert not caught.value.permanent
