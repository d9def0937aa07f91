"""The device's broker port: the same words for the fake of the device suite and for paho against a real mosquitto."""

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from device_client.adapters.mqtt import BrokerAddress, MqttBroker
from device_client.core.errors import ConfigError
from device_client.ports import Broker
from device_client.wire import topics
from device_client.wire.messages import Presence
from device_client.wire.topics import Down, Up
from fleet.entrypoints.up.addresses import LOOPBACK
from fleet.ports.broker import Delivery, Message
from fleet.ports.certificates import Revocation
from tests.embedded_broker import DeviceFiles, EmbeddedBroker, running_broker
from tests.fakes.update_server import PLAN_KEY, MemoryBroker, UpdateServerSimulator
from tests.toolchain.services import own_port

WITHIN_S = 60.0
DEVICE = "dev-a"


class Bench:
    """A device's port and the other side of it."""

    def __init__(self, port: Broker) -> None:
        self.port = port
        self.received: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.connections: queue.Queue[bool] = queue.Queue()

    def start(self) -> None:
        self.port.start(lambda topic, payload: self.received.put((topic, payload)), self.connections.put)
        assert self.connections.get(timeout=WITHIN_S) is True

    def send(self, topic: str, payload: bytes) -> None:
        raise NotImplementedError

    def arrived(self) -> tuple[str, bytes]:
        raise NotImplementedError


class FakeBench(Bench):
    class Server(UpdateServerSimulator):
        def __init__(self, inbox: "queue.Queue[tuple[str, bytes]]") -> None:
            self.inbox = inbox

        def take(self, device_id: str, kind: Up, payload: bytes) -> list[tuple[Down, bytes]]:
            self.inbox.put((topics.up(device_id, kind), payload))
            return []

    def __init__(self) -> None:
        self.inbox: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.fake = MemoryBroker(self.Server(self.inbox), DEVICE)
        super().__init__(self.fake)

    def send(self, topic: str, payload: bytes) -> None:
        self.fake.deliver(topic, payload)

    def arrived(self) -> tuple[str, bytes]:
        return self.inbox.get(timeout=WITHIN_S)


class RealBench(Bench):
    def __init__(self, broker: EmbeddedBroker) -> None:
        super().__init__(MqttBroker(address(broker, DEVICE), DEVICE))
        self.inbox: queue.Queue[Delivery] = queue.Queue()
        self.consumer = broker.client("_ingest")
        self.consumer.subscribe([topics.every_up(Up.STATE)], self.inbox.put)
        self.senders = {name: broker.client(name) for name in ("_director", "_publisher")}
        for client in (self.consumer, *self.senders.values()):
            client.start()
            assert client.wait_ready(WITHIN_S)

    def send(self, topic: str, payload: bytes) -> None:
        sender = "_publisher" if topic.startswith("fleet/v1/plan/") else "_director"
        self.senders[sender].publish(Message(topic, payload))

    def arrived(self) -> tuple[str, bytes]:
        delivery = self.inbox.get(timeout=WITHIN_S)
        delivery.acknowledge()
        return delivery.topic, delivery.payload

    def close(self) -> None:
        for client in (self.consumer, *self.senders.values()):
            client.stop()


def address(broker: EmbeddedBroker, device_id: str) -> BrokerAddress:
    files = broker.device(device_id)
    return BrokerAddress(
        LOOPBACK, broker.device_port, broker.secrets.path("device_ca.crt"), files.certificate, files.key
    )


@pytest.fixture(params=["fake", "real"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "fake":
        yield FakeBench()
        return
    made = RealBench(request.getfixturevalue("embedded_broker"))
    yield made
    made.port.stop()
    made.close()


def test_broker__not_connected__publish_says_so(bench: Bench) -> None:
    assert bench.port.publish(topics.up(DEVICE, Up.STATE), b"x") is False


def test_broker__connected__messages_go_up(bench: Bench) -> None:
    bench.start()
    assert bench.port.publish(topics.up(DEVICE, Up.STATE), b"one")
    assert bench.arrived() == (topics.up(DEVICE, Up.STATE), b"one")


def test_broker__own_topics__delivered_without_asking(bench: Bench) -> None:
    bench.start()
    bench.send(topics.down(DEVICE, Down.BUNDLE), b"answer")
    assert bench.received.get(timeout=WITHIN_S) == (topics.down(DEVICE, Down.BUNDLE), b"answer")


def test_broker__says_that_it_is_connected__own_topics_reach_it_by_then(bench: Bench) -> None:
    """Sent from within the callback, before the network's thread can write another byte."""
    topic = topics.down(DEVICE, Down.BUNDLE)
    bench.port.start(
        lambda topic, payload: bench.received.put((topic, payload)),
        lambda up: bench.send(topic, b"now") if up else None,
    )
    assert bench.received.get(timeout=WITHIN_S) == (topic, b"now")


def test_broker__plan_notice__delivered_once_subscribed(bench: Bench) -> None:
    bench.start()
    bench.port.subscribe(topics.plan(PLAN_KEY))
    bench.port.subscribe(topics.plan(PLAN_KEY))
    for _ in range(100):  # the real subscription takes a moment
        bench.send(topics.plan(PLAN_KEY), b"notice")
        try:
            assert bench.received.get(timeout=0.2) == (topics.plan(PLAN_KEY), b"notice")
            break
        except queue.Empty:
            continue
    else:
        raise AssertionError("the notice never arrived")


def test_broker__other_devices_topics__not_delivered(bench: Bench) -> None:
    bench.start()
    bench.send(topics.down("dev-b", Down.BUNDLE), b"not for us")
    bench.send(topics.down(DEVICE, Down.BUNDLE), b"for us")
    assert bench.received.get(timeout=WITHIN_S)[1] == b"for us"


# ---------------------------------------------------------------- only a real broker can show these


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with running_broker(tmp_path / "home") as broker:
        yield broker


def test_mqtt__broker_restarted__connection_and_subscriptions_come_back(own_broker: EmbeddedBroker) -> None:
    bench = RealBench(own_broker)
    bench.start()
    bench.port.subscribe(topics.plan(PLAN_KEY))
    own_broker.stop()
    assert bench.connections.get(timeout=WITHIN_S) is False
    own_broker.start()
    assert bench.connections.get(timeout=WITHIN_S) is True
    assert bench.senders["_publisher"].wait_ready(WITHIN_S)
    deadline = time.monotonic() + WITHIN_S
    while bench.received.empty():
        assert time.monotonic() < deadline, "subscriptions were lost"
        bench.send(topics.plan(PLAN_KEY), b"notice")
        time.sleep(0.2)
    bench.port.stop()
    bench.close()


def test_mqtt__broker_moved__found_where_the_server_says_it_is(own_broker: EmbeddedBroker) -> None:
    # One whose name has it try again after 1, 2 and 4 seconds: how long a device waits is drawn from its name.
    now = address(own_broker, "dev-k")
    before = replace(now, port=own_port())
    asked: list[tuple[str, int]] = []

    def locate() -> tuple[str, int] | None:
        asked.append((now.host, now.port))
        return asked[-1]

    device = MqttBroker(before, "dev-k", locate)
    up: queue.Queue[bool] = queue.Queue()
    device.start(lambda _topic, _payload: None, up.put)
    try:
        while not up.get(timeout=120):
            pass
        assert device.publish(topics.up("dev-k", Up.STATE), b"here again")
    finally:
        device.stop()
    assert len(asked) == 1


def test_mqtt__device_dies__will_says_offline(embedded_broker: EmbeddedBroker) -> None:
    seen = _presences(embedded_broker, "dev-w")
    device = MqttBroker(address(embedded_broker, "dev-w"), "dev-w")
    bench = Bench(device)
    bench.start()
    assert seen() is True
    device._client.socket().close()  # type: ignore[union-attr]  # as a power cut would
    assert seen() is False
    device.stop()


def test_mqtt__stopped_in_an_orderly_way__says_offline(embedded_broker: EmbeddedBroker) -> None:
    seen = _presences(embedded_broker, "dev-o")
    bench = Bench(MqttBroker(address(embedded_broker, "dev-o"), "dev-o"))
    bench.start()
    assert seen() is True
    bench.port.stop()
    assert seen() is False


def test_mqtt__identity_renewed__connected_again_and_never_offline(embedded_broker: EmbeddedBroker) -> None:
    old, new = embedded_broker.device("dev-n"), embedded_broker.device("dev-n")
    seen = _presences(embedded_broker, "dev-n")
    bench = Bench(MqttBroker(_address_with(embedded_broker, old), "dev-n"))
    bench.start()
    assert seen() is True
    _replace(old, new)
    bench.port.renew_identity()
    assert [bench.connections.get(timeout=WITHIN_S) for _ in range(2)] == [False, True]
    assert seen() is True
    bench.port.stop()


def test_mqtt__identity_renewed_and_the_old_one_revoked__connected_with_the_new_certificate(
    own_broker: EmbeddedBroker,
) -> None:
    old, new = own_broker.device("dev-n"), own_broker.device("dev-n")
    bench = Bench(MqttBroker(_address_with(own_broker, old), "dev-n"))
    bench.start()
    now = datetime.now(tz=UTC)
    own_broker.access.shut_out([], [Revocation(old.serial_hex, now)], now)
    own_broker.restart()
    assert bench.connections.get(timeout=WITHIN_S) is False
    _replace(old, new)
    bench.port.renew_identity()
    assert bench.connections.get(timeout=WITHIN_S) is True
    bench.port.stop()


def _address_with(broker: EmbeddedBroker, files: DeviceFiles) -> BrokerAddress:
    return replace(address(broker, DEVICE), certificate=files.certificate, key=files.key)


def _replace(old: DeviceFiles, new: DeviceFiles) -> None:
    for source, target in ((new.certificate, old.certificate), (new.key, old.key)):
        target.write_bytes(source.read_bytes())


def test_broker__identity_renewed_before_the_start__connects(bench: Bench) -> None:
    bench.port.renew_identity()
    bench.start()


def test_broker__identity_renewed__messages_go_both_ways_again(bench: Bench) -> None:
    bench.start()
    bench.port.subscribe(topics.plan(PLAN_KEY))
    bench.port.renew_identity()
    assert [bench.connections.get(timeout=WITHIN_S) for _ in range(2)] == [False, True]
    assert bench.port.publish(topics.up(DEVICE, Up.STATE), b"again")
    assert bench.arrived() == (topics.up(DEVICE, Up.STATE), b"again")
    bench.send(topics.plan(PLAN_KEY), b"notice")
    assert bench.received.get(timeout=WITHIN_S) == (topics.plan(PLAN_KEY), b"notice")


def _presences(broker: EmbeddedBroker, device_id: str) -> Callable[[], bool]:
    """Reads the next word about one device's presence."""
    inbox: queue.Queue[Delivery] = queue.Queue()
    consumer = broker.client("_ingest", member=device_id)
    consumer.subscribe([topics.up(device_id, Up.PRESENCE)], inbox.put)
    consumer.start()
    assert consumer.wait_ready(WITHIN_S)

    def following() -> bool:
        delivery = inbox.get(timeout=WITHIN_S)
        delivery.acknowledge()
        return Presence.parse(delivery.payload).online

    return following


def test_mqtt__files_missing__one_named_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ConfigError):
        MqttBroker(BrokerAddress(LOOPBACK, 1, missing, missing, missing), DEVICE)
