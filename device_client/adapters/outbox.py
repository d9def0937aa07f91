"""`ports.Outbox` in SQLite, bounded: when it is full, the oldest unsent windows of one key become one window.

What cannot be merged any more is dropped, oldest window first, and counted; state reports and labels go last. The count
travels to the server as a metric of the next window, so nothing is lost silently.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from device_client.adapters.database import Database
from device_client.core import vitals
from device_client.ports import Draft, Pending
from device_client.wire.errors import WireError
from device_client.wire.limits import MAX_INFERENCES_PER_WINDOW
from device_client.wire.messages import MessageKey, TelemetryWindow
from device_client.wire.topics import Up

MAX_BYTES: Final = 8 * 2**20
ROOM_SHARE: Final = 0.9  # a full outbox is brought down to this share, so that not every message makes room anew
BOOT_KEY: Final = "boot"
DROPPED_KEY: Final = "outbox_dropped"


def insert(connection: sqlite3.Connection, boot: str, messages: Sequence[tuple[Up, Draft]]) -> None:
    """Number the messages and keep them, inside the caller's transaction."""
    for kind, draft in messages:
        cursor = connection.execute("INSERT INTO outbox (kind, payload) VALUES (?, x'')", (kind.value,))
        seq = int(cursor.lastrowid or 0)
        connection.execute("UPDATE outbox SET payload = ? WHERE seq = ?", (draft(MessageKey(boot, seq)), seq))


def life_of(database: Database, make: Callable[[], str]) -> str:
    """The name of this outbox's life: made once, when the file is new."""
    known = database.rows("SELECT value FROM remembered WHERE key = ?", (BOOT_KEY,))
    if known:
        return str(known[0][0])
    with database.transaction() as connection:
        connection.execute("INSERT OR IGNORE INTO remembered (key, value) VALUES (?, ?)", (BOOT_KEY, make()))
        return str(connection.execute("SELECT value FROM remembered WHERE key = ?", (BOOT_KEY,)).fetchone()[0])


class SqliteOutbox:
    """The outbox of one life `boot`."""

    def __init__(self, database: Database, boot: str, max_bytes: int = MAX_BYTES) -> None:
        self._database = database
        self._boot = boot
        self._max_bytes = max_bytes

    def add(self, messages: Sequence[tuple[Up, Draft]], *, lost: int = 0) -> None:
        if not messages:
            return
        with self._database.transaction() as connection:
            insert(connection, self._boot, messages)
            self._make_room(connection)
            if lost:
                _count_dropped(connection, lost)

    def pending(self, limit: int, *, beyond: Iterable[int] = ()) -> Sequence[Pending]:
        skipped = list(beyond)
        marks = ",".join("?" * len(skipped))
        rows = self._database.rows(
            f"SELECT seq, kind, payload FROM outbox WHERE seq NOT IN ({marks}) ORDER BY seq LIMIT ?",  # noqa: S608 - marks
            (*skipped, limit),
        )
        return [
            Pending(MessageKey(self._boot, int(str(seq))), Up(str(kind)), bytes(payload))  # type: ignore[call-overload]
            for seq, kind, payload in rows
        ]

    def sent(self, seqs: Sequence[int]) -> None:
        if not seqs:
            return
        with self._database.transaction() as connection:
            connection.executemany("UPDATE outbox SET sent = 1 WHERE seq = ? AND sent = 0", [(seq,) for seq in seqs])

    def acknowledge(self, boot: str, seqs: Sequence[int]) -> int:
        if boot != self._boot or not seqs:
            return 0
        with self._database.transaction() as connection:
            return connection.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs]).rowcount

    def depth(self) -> int:
        return int(str(self._database.rows("SELECT count(*) FROM outbox")[0][0]))

    def dropped(self) -> int:
        """How many windows were dropped in this life."""
        rows = self._database.rows("SELECT value FROM remembered WHERE key = ?", (DROPPED_KEY,))
        return int(str(rows[0][0])) if rows else 0

    def _make_room(self, connection: sqlite3.Connection) -> None:
        size = int(connection.execute("SELECT coalesce(sum(length(payload)), 0) FROM outbox").fetchone()[0])
        if size <= self._max_bytes:
            return
        goal = int(self._max_bytes * ROOM_SHARE)
        size = self._merge_windows(connection, size, goal)
        if size > goal:
            self._drop(connection, size, goal)

    def _merge_windows(self, connection: sqlite3.Connection, size: int, goal: int) -> int:
        """Fold unsent windows, oldest first, into the next of the same key until the outbox is small enough."""
        rows = connection.execute(
            "SELECT seq, payload FROM outbox WHERE kind = ? AND sent = 0 ORDER BY seq", (Up.TELEMETRY.value,)
        ).fetchall()
        open_windows: dict[vitals.WindowKey, tuple[int, TelemetryWindow, int]] = {}
        for seq, payload in rows:
            if size <= goal:
                break
            try:
                window = TelemetryWindow.parse(payload)
            except WireError:
                continue  # a stored form of another release; it is sent or dropped as it is
            key = vitals.mergeable(window)
            if key is None:
                continue
            if key in open_windows and open_windows[key][1].n + window.n <= MAX_INFERENCES_PER_WINDOW:
                old_seq, old, old_size = open_windows[key]
                window = vitals.merge(old, window, MessageKey(self._boot, seq))
                merged = window.encode()
                connection.execute("DELETE FROM outbox WHERE seq = ?", (old_seq,))
                connection.execute("UPDATE outbox SET payload = ? WHERE seq = ?", (merged, seq))
                size += len(merged) - len(payload) - old_size
                payload = merged  # noqa: PLW2901 - what the row holds now
            open_windows[key] = (seq, window, len(payload))
        return size

    def _drop(self, connection: sqlite3.Connection, size: int, goal: int) -> None:
        rows = connection.execute(
            "SELECT seq, length(payload) FROM outbox ORDER BY kind = ? DESC, sent, seq", (Up.TELEMETRY.value,)
        ).fetchall()
        doomed = []
        for seq, length in rows:
            if size <= goal:
                break
            doomed.append((seq,))
            size -= length
        connection.executemany("DELETE FROM outbox WHERE seq = ?", doomed)
        _count_dropped(connection, len(doomed))


def _count_dropped(connection: sqlite3.Connection, count: int) -> None:
    connection.execute(
        "INSERT INTO remembered (key, value) VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + CAST(excluded.value AS INTEGER)",
        (DROPPED_KEY, str(count)),
    )
