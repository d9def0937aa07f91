"""The ingest process against a broker in memory and a real database."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import pytest
from django.db import DataError, OperationalError, connections, transaction

from device_client.wire.messages import Ack, Presence, StateReport
from device_client.wire.states import UpdateState
from device_client.wire.topics import Down, Up, down, up
from fleet.apps.devices import selectors as device_selectors
from fleet.apps.devices import services as devices
from fleet.apps.telemetry import selectors
from fleet.apps.telemetry import services as telemetry
from fleet.apps.telemetry.models import Window
from fleet.apps.telemetry.records import DurableKey, Incoming, Report
from fleet.entrypoints.gateway.ingest import Ingest
from fleet.entrypoints.gateway.lifecycle import StoppedError, with_database
from fleet.ports.broker import Delivery, Message
from tests.fakes.broker import FakeBroker, FakeHub
from tests.fakes.clock import FakeClock
from tests.fakes.fleet_simulator import FleetSimulator, SimulatedDevice
from tests.server.catalogue import MODEL, NOW, later, make_model

pytestmark = pytest.mark.django_db(transaction=True)

WITHIN_S = 60.0
RIGHTS = ["fleet/v1/d/+/down/ack"]


def enrolled(size: int) -> list[SimulatedDevice]:
    make_model()
    fleet = FleetSimulator(size, model=MODEL)
    for device in fleet:
        devices.enrol(device_id=device.device_id, hardware_class=device.hardware_class, attributes={}, now=NOW)
    return fleet.devices


def publish(hub: FakeHub, device: SimulatedDevice, kind: Up, message: Report | bytes) -> None:
    payload = message if isinstance(message, bytes) else message.encode()
    hub.publish(Message(up(device.device_id, kind), payload))


@contextmanager
def ingesting(hub: FakeHub, *members: str) -> Iterator[None]:
    stop = threading.Event()

    def work(member: str) -> None:
        try:
            Ingest(FakeBroker(hub, f"_ingest-{member}", RIGHTS), FakeClock(later(60)), stop).run()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(member,)) for member in members or ("1",)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def acknowledged(hub: FakeHub, device: SimulatedDevice) -> set[int]:
    topic = down(device.device_id, Down.ACK)
    acks = [Ack.parse(message.payload) for message in hub.published if message.topic == topic]
    assert all(ack.boot == device.boot for ack in acks)
    return {seq for ack in acks for seq in ack.seqs}


def unacknowledged(hub: FakeHub, member: str = "1") -> int:
    return len(hub._sessions[f"_ingest-{member}"].unacknowledged)


def test_ingest__reports_of_all_kinds__are_stored_and_acknowledged_exactly() -> None:
    hub, (device, other) = FakeHub(), enrolled(2)
    with ingesting(hub):
        wait_for(lambda: "_ingest-1" in hub._sessions)
        publish(hub, device, Up.PRESENCE, Presence(online=True, client_version="1.0"))
        for _ in range(3):
            publish(hub, device, Up.TELEMETRY, device.window(NOW, n=10))
        publish(hub, device, Up.LABEL, device.labels(NOW, n=2, accuracy=1.0))
        publish(hub, other, Up.TELEMETRY, other.window(NOW, n=10))
        wait_for(lambda: unacknowledged(hub) == 0 and len(acknowledged(hub, other)) == 1)
    assert acknowledged(hub, device) == {1, 2, 3, 4}
    assert acknowledged(hub, other) == {1}
    assert selectors.version_overall(MODEL)[0].n == 40
    assert device_selectors.device(device.device_id).online


def test_ingest__storm_of_malformed_payloads__stores_the_good_ones_and_counts_the_rest() -> None:
    hub, (device,) = FakeHub(), enrolled(1)
    good = device.window(NOW, n=10)
    newer = json.dumps({**json.loads(good.encode()), "v": 99}).encode()
    contradicting = replace(good, errors=11).encode()
    surrogate = good.encode().replace(b'"local"', b'"\\ud800"')
    nul = good.encode().replace(b'"local"', b'"a\\u0000"')
    storm = [
        b"",
        b"{",
        b"[" * 5_000,
        b"\xff" * 50,
        newer,
        contradicting,
        b"null",
        surrogate,
        nul,
        b"{}" + b" " * 130_900,
    ]
    with ingesting(hub):
        wait_for(lambda: "_ingest-1" in hub._sessions)
        for number in range(300):
            publish(hub, device, Up.TELEMETRY, storm[number % len(storm)])
            if number % 30 == 0:
                publish(hub, device, Up.TELEMETRY, device.window(NOW, n=10))
        wait_for(lambda: unacknowledged(hub) == 0 and len(acknowledged(hub, device)) == 10)
    assert selectors.version_overall(MODEL)[0].n == 100
    dropped = {row.code: row.count for row in selectors.dropped()}
    assert sum(dropped.values()) == 300
    assert dropped["unknown_version"] == 30
    assert dropped["malformed_message"] == 270


def test_ingest__one_message_that_no_database_takes__is_the_only_one_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, (device,) = FakeHub(), enrolled(1)
    really = telemetry.take_in

    def picky(*, messages: Sequence[Incoming], now: datetime) -> tuple[DurableKey, ...]:
        stored = really(messages=messages, now=now)
        if any(isinstance(item.message, StateReport) for item in messages):
            raise DataError("value out of range")
        return stored

    monkeypatch.setattr(telemetry, "take_in", transaction.atomic(picky))
    with ingesting(hub):
        wait_for(lambda: "_ingest-1" in hub._sessions)
        for number in range(20):
            publish(hub, device, Up.TELEMETRY, device.window(NOW, n=10))
            if number == 7:
                publish(hub, device, Up.STATE, state_report(device))
        wait_for(lambda: unacknowledged(hub) == 0 and len(acknowledged(hub, device)) == 20)
    assert selectors.version_overall(MODEL)[0].n == 200
    assert [(row.kind, row.code, row.count) for row in selectors.dropped()] == [("state", "unstorable", 1)]
    assert device_selectors.timeline(device.device_id) == ()


def state_report(device: SimulatedDevice) -> StateReport:
    return StateReport(
        key=device.next_key(),
        at=int(NOW.timestamp()),
        model=MODEL,
        version="1",
        digest="1" * 64,
        rollout="",
        revision=1,
        state=UpdateState.IDLE,
    )


def test_ingest__worker_died_after_its_commit__the_next_one_acknowledges_and_counts_nothing_twice() -> None:
    hub, (device,) = FakeHub(), enrolled(1)
    died = FakeBroker(hub, "_ingest-1", RIGHTS)
    died.subscribe(["$share/ingest/fleet/v1/d/+/up/telemetry"], lambda _: None)
    died.start()
    windows = [device.window(NOW, n=10) for _ in range(5)]
    for window in windows:
        publish(hub, device, Up.TELEMETRY, window)
    telemetry.take_in(messages=[Incoming(device.device_id, window) for window in windows], now=later(1))
    died.stop()
    assert unacknowledged(hub) == 5
    with ingesting(hub):
        wait_for(lambda: unacknowledged(hub) == 0 and len(acknowledged(hub, device)) == 5)
    assert selectors.version_overall(MODEL)[0].n == 50


def test_ingest__two_workers__share_the_work_and_store_everything_once() -> None:
    hub, fleet = FakeHub(), enrolled(5)
    with ingesting(hub, "1", "2"):
        wait_for(lambda: {"_ingest-1", "_ingest-2"} <= hub._sessions.keys())
        for _ in range(20):
            for device in fleet:
                window = device.window(NOW, n=10)
                publish(hub, device, Up.TELEMETRY, window)
                publish(hub, device, Up.TELEMETRY, window)
        wait_for(lambda: all(len(acknowledged(hub, device)) == 20 for device in fleet))
        wait_for(lambda: unacknowledged(hub) + unacknowledged(hub, "2") == 0)
    assert selectors.version_overall(MODEL)[0].n == 5 * 20 * 10


def test_ingest__devices_cannot_be_told__stores_all_the_same() -> None:
    hub, (device,) = FakeHub(), enrolled(1)
    ingest = Ingest(FakeBroker(hub, "_ingest-1", ["nothing"]), FakeClock(later(1)), threading.Event())
    acks: list[int] = []
    window = device.window(NOW, n=10)
    ingest.take([Delivery(up(device.device_id, Up.TELEMETRY), window.encode(), lambda: acks.append(1))])
    assert acks == [1]
    assert Window.objects.count() == 1


def test_ingest__stranger__is_not_told_to_forget() -> None:
    hub = FakeHub()
    stranger = FleetSimulator(1, model=MODEL).devices[0]
    with ingesting(hub):
        wait_for(lambda: "_ingest-1" in hub._sessions)
        publish(hub, stranger, Up.TELEMETRY, stranger.window(NOW, n=10))
        wait_for(lambda: unacknowledged(hub) == 0 and len(selectors.dropped()) == 1)
    assert acknowledged(hub, stranger) == set()
    assert selectors.dropped()[0].code == "device_not_active"


def test_with_database__busy_for_a_while__goes_on_until_it_answers() -> None:
    calls = []

    def work() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise OperationalError("database is locked")
        return "done"

    assert with_database(work, threading.Event()) == "done"
    assert len(calls) == 3


def test_with_database__told_to_stop_or_out_of_attempts__gives_up() -> None:
    def work() -> None:
        raise OperationalError("database is locked")

    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        with_database(work, stop)
    with pytest.raises(OperationalError):
        with_database(work, threading.Event(), attempts=2)
