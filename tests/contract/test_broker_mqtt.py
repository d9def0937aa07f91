"""What only a real broker can show: it goes away and comes back, with everybody's messages."""

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.ports.broker import BrokerUnavailableError, Delivery, Message
from tests.embedded_broker import EmbeddedBroker, running_broker

REPORTS = "fleet/v1/d/dev-a/up/state"
WITHIN_S = 60.0


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with running_broker(tmp_path / "home") as broker:
        yield broker


def test_broker__restarted__clients_come_back_and_lose_nothing(own_broker: EmbeddedBroker) -> None:
    inbox: queue.Queue[Delivery] = queue.Queue()
    consumer = own_broker.client("_ingest")
    consumer.subscribe([REPORTS], inbox.put)
    device = own_broker.device_client("dev-a")
    for client in (consumer, device):
        client.start()
        assert client.wait_ready(WITHIN_S)
    try:
        device.publish(Message(REPORTS, b"before"))
        before = inbox.get(timeout=WITHIN_S)
        own_broker.stop()
        with pytest.raises(BrokerUnavailableError):
            device.publish(Message(REPORTS, b"perhaps"), timeout_s=0.3)
        own_broker.start()
        assert consumer.wait_ready(WITHIN_S)
        assert inbox.get(timeout=WITHIN_S).payload == b"before"
        before.acknowledge()
        device.publish(Message(REPORTS, b"after"), timeout_s=WITHIN_S)
        # What was refused for want of a broker may arrive all the same, if it was under way.
        later = inbox.get(timeout=WITHIN_S)
        if later.payload == b"perhaps":
            later = inbox.get(timeout=WITHIN_S)
        assert later.payload == b"after"
    finally:
        consumer.stop()
        device.stop()


def test_broker__more_unacknowledged_than_agreed__waits_for_acknowledgements(own_broker: EmbeddedBroker) -> None:
    inbox: queue.Queue[Delivery] = queue.Queue()
    consumer = own_broker.client("_ingest", receive_maximum=5)
    consumer.subscribe([REPORTS], inbox.put)
    device = own_broker.device_client("dev-a")
    for client in (consumer, device):
        client.start()
        assert client.wait_ready(WITHIN_S)
    try:
        device.publish(*(Message(REPORTS, b"%d" % number) for number in range(12)))
        held = [inbox.get(timeout=WITHIN_S) for _ in range(5)]
        with pytest.raises(queue.Empty):
            inbox.get(timeout=0.5)
        for delivery in held:
            delivery.acknowledge()
        assert inbox.get(timeout=WITHIN_S).payload == b"5"
    finally:
        consumer.stop()
        device.stop()
