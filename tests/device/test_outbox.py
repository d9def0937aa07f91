"""The outbox: kept until acknowledged, numbered for ever, bounded without a silent loss."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from device_client.adapters.database import Database
from device_client.adapters.outbox import SqliteOutbox, life_of
from device_client.ports import Draft
from device_client.wire.messages import MessageKey, Presence, StateReport, TelemetryWindow
from device_client.wire.sketch import LatencySketch
from device_client.wire.states import UpdateState
from device_client.wire.topics import Up

BOOT = "00112233"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "client.sqlite3")
    yield opened
    opened.close()


def window(n: int, version: str = "1", *, during_update: bool = False) -> Draft:
    sketch = LatencySketch()
    sketch.add(5.0, n)
    return lambda key: TelemetryWindow(
        key, 100 + key.seq, 1.0, "vision.digits", version, "", 1, "local", n, 0, 0, sketch, 5.0 * n, 25.0 * n,
        during_update=during_update,
    ).encode()  # fmt: skip


def report(key: MessageKey) -> bytes:
    return StateReport(key, 1, "vision.digits", "1", "", "", 1, UpdateState.COMMITTED).encode()


def windows(outbox: SqliteOutbox) -> list[TelemetryWindow]:
    return [TelemetryWindow.parse(item.payload) for item in outbox.pending(10_000) if item.kind is Up.TELEMETRY]


def test_outbox__acknowledged_exactly__others_stay(database: Database) -> None:
    outbox = SqliteOutbox(database, BOOT)
    outbox.add([(Up.STATE, report)] * 5)
    assert [item.key.seq for item in outbox.pending(3)] == [1, 2, 3]
    assert [item.key.seq for item in outbox.pending(10, beyond=[1, 4])] == [2, 3, 5]
    assert outbox.acknowledge(BOOT, [2, 3, 99]) == 2
    assert outbox.acknowledge("ffffffff", [1]) == 0, "another life's numbers mean other messages"
    assert outbox.depth() == 3
    assert [StateReport.parse(item.payload).key for item in outbox.pending(10)] == [
        MessageKey(BOOT, seq) for seq in (1, 4, 5)
    ]


def test_outbox__all_acknowledged_and_restarted__numbers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "client.sqlite3"
    first = Database(path)
    boot = life_of(first, lambda: "aaaaaaaa")
    outbox = SqliteOutbox(first, boot)
    outbox.add([(Up.STATE, report)] * 3)
    outbox.acknowledge(boot, [1, 2, 3])
    first.close()
    second = Database(path)
    assert life_of(second, lambda: "bbbbbbbb") == "aaaaaaaa"
    again = SqliteOutbox(second, boot)
    again.add([(Up.STATE, report)])
    assert [item.key.seq for item in again.pending(10)] == [4]
    second.close()


def test_outbox__full__unsent_windows_of_one_key_merge_and_nothing_is_lost(database: Database) -> None:
    outbox = SqliteOutbox(database, BOOT, max_bytes=20_000)
    outbox.add([(Up.STATE, report)])
    for number in range(400):
        outbox.add([(Up.TELEMETRY, window(number + 1, version=str(1 + number % 2)))])
    assert sum(item.n for item in windows(outbox)) == sum(range(1, 401))
    assert sum(item.latency.total for item in windows(outbox)) == sum(range(1, 401))
    assert {item.version for item in windows(outbox)} == {"1", "2"}
    assert outbox.dropped() == 0
    assert outbox.depth() < 100
    assert any(item.kind is Up.STATE for item in outbox.pending(1_000))


def test_outbox__full__sent_windows_are_never_merged(database: Database) -> None:
    """The server may know them: merged under a new number they would count twice."""
    outbox = SqliteOutbox(database, BOOT, max_bytes=8_000)
    outbox.add([(Up.TELEMETRY, window(1_000))])
    outbox.sent([1])
    for _ in range(100):
        outbox.add([(Up.TELEMETRY, window(1))])
    kept = {item.key.seq: item.n for item in windows(outbox)}
    assert kept[1] == 1_000
    assert sum(kept.values()) == 1_100


def test_outbox__full_and_nothing_merges__oldest_windows_dropped_and_counted(database: Database) -> None:
    outbox = SqliteOutbox(database, BOOT, max_bytes=8_000)
    outbox.add([(Up.STATE, report)])
    for _ in range(100):
        outbox.add([(Up.TELEMETRY, window(1, during_update=True))])
    kept = windows(outbox)
    assert outbox.dropped() == 100 - len(kept) > 0
    assert [item.key.seq for item in kept] == sorted(item.key.seq for item in kept)
    assert kept[-1].key.seq == 101, "the newest is kept"
    assert any(item.kind is Up.STATE for item in outbox.pending(1_000)), "reports go last"


def test_outbox__draft_fails__nothing_of_the_batch_is_kept(database: Database) -> None:
    outbox = SqliteOutbox(database, BOOT)

    def broken(_key: MessageKey) -> bytes:
        raise RuntimeError("no message")

    with pytest.raises(RuntimeError):
        outbox.add([(Up.STATE, report), (Up.STATE, broken)])
    assert outbox.depth() == 0
    outbox.add([(Up.PRESENCE, lambda _key: Presence(True).encode())])
    assert outbox.depth() == 1
