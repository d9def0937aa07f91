"""A disk that takes nothing any more: what runs goes on, the agent lives, and work goes on once there is room."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from device_client.adapters.database import Database
from device_client.adapters.journal import SqliteJournal
from device_client.core.errors import StorageError
from device_client.wire.states import UpdateState
from tests.device.rig import DEVICE, MODEL, Rig, weights
from tests.fakes.update_server import UpdateServerSimulator


class Disk:
    """Stands between a device and its database's writes."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.room_for: int | None = None  # writes
        write = rig.database.transaction

        @contextmanager
        def transaction() -> Iterator[Any]:
            if self.room_for is not None:
                self.room_for -= 1
                self.full = self.full or self.room_for < 0
            if self.full:
                raise StorageError("database or disk is full")
            with write() as connection:
                yield connection

        monkeypatch.setattr(rig.database, "transaction", transaction)


def test_transaction__no_room__storage_error_and_usable_afterwards(tmp_path: Path) -> None:
    database = Database(tmp_path / "client.sqlite3")
    journal = SqliteJournal(database, "b0b0b0b0")
    database.rows("PRAGMA max_page_count = 1")  # SQLite takes the present size for the least
    with pytest.raises(StorageError, match="full"):
        journal.remember({"large": "x" * 100_000})
    database.rows("PRAGMA max_page_count = 1000000")
    journal.remember({"large": "y"})
    assert journal.recall("large") == "y"


@pytest.mark.parametrize("writes", range(0, 20, 2))
def test_disk__full_at_some_write_of_an_update__serves_and_goes_on_later(
    rig: Rig, server: UpdateServerSimulator, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    first, second = (server.push(MODEL, label, weights(float(label))) for label in ("1", "2"))
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    disk = Disk(rig, monkeypatch)
    server.assign(DEVICE, second)
    disk.room_for = writes
    rig.poke()
    for _ in range(400):
        rig.clock.advance(0.25)
        rig.settle()
        assert rig.infer(0.0) in {1.0, 2.0}
    assert disk.full
    disk.full, disk.room_for = False, None
    rig.poke()
    rig.run_until(lambda: rig.deployment.state in {UpdateState.COMMITTED, UpdateState.ROLLED_BACK})
    assert rig.infer(0.0) == (2.0 if rig.deployment.state is UpdateState.COMMITTED else 1.0)
    assert rig.current == (second if rig.deployment.state is UpdateState.COMMITTED else first).digest
    assert not rig.journal.denied(MODEL)


def test_start__on_a_full_disk__serves_what_is_installed(
    rig: Rig, server: UpdateServerSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest)
    rig.start()
    rig.run_until(lambda: rig.deployment.state is UpdateState.PROBATION)
    rig.unplug()
    rig.boot()
    disk = Disk(rig, monkeypatch)
    disk.full = True
    rig.start()
    rig.settle()
    assert rig.infer(0.0) == 1.0
    disk.full = False
    rig.run_to(UpdateState.COMMITTED, manifest)
    rig.agent.close()


def test_disk__full_for_long__one_line_a_minute_and_no_window_is_lost(
    rig: Rig, server: UpdateServerSimulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.assign(DEVICE, server.push(MODEL, "1", weights(1.0)))
    rig.start()
    rig.run_to(UpdateState.COMMITTED)
    disk = Disk(rig, monkeypatch)
    disk.full = True
    caplog.clear()
    for _ in range(300):
        rig.infer(0.0)
        rig.clock.advance(1.0)
        rig.settle()
    said = [record for record in caplog.records if "full" in record.getMessage()]
    assert 3 <= len(said) <= 8
    assert "times more" in said[-1].getMessage()
    disk.full = False
    rig.clock.advance(10.0)
    rig.settle(2_000)
    rig.run_until(lambda: rig.outbox.depth() == 0)
    assert sum(window.n for window in server.windows[DEVICE].values()) == 300
    assert rig.outbox.dropped() == 0


def test_disk__full_for_very_long__oldest_are_dropped_and_counted(
    rig: Rig, server: UpdateServerSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_client.agent.postman.MAX_UNWRITTEN", 10)
    server.assign(DEVICE, server.push(MODEL, "1", weights(1.0)))
    rig.start()
    rig.run_to(UpdateState.COMMITTED)
    disk = Disk(rig, monkeypatch)
    disk.full = True
    for _ in range(25):
        rig.infer(0.0)
        rig.clock.advance(2.0)
        rig.settle()
    disk.full = False
    rig.clock.advance(10.0)
    rig.run_until(lambda: rig.outbox.depth() == 0)
    kept = sum(window.n for window in server.windows[DEVICE].values())
    assert 8 <= kept <= 11
    assert rig.outbox.dropped() == 25 - kept


def test_database__any_umask_and_an_older_file__of_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        path = tmp_path / "client.sqlite3"
        path.touch(0o644)
        for name in ("client.sqlite3-wal", "client.sqlite3-shm"):
            (tmp_path / name).touch(0o644)
        database = Database(path)
        SqliteJournal(database, "b0b0b0b0").remember({"a": "b"})
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        database.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("client.sqlite3", "client.sqlite3-wal", "client.sqlite3-shm"), 0o600)
