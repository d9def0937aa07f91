"""The client's one SQLite file: every commit reaches the disk before the call returns (WAL, synchronous=FULL).

One connection, one lock, many threads. Other processes may read it at any time (`modelfleet-device status`).
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from device_client.adapters import durable
from device_client.core.errors import ConfigError, StorageError

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS deployment (model TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS denied (
    model TEXT NOT NULL, digest TEXT NOT NULL, rollout TEXT NOT NULL, PRIMARY KEY (model, digest, rollout)
) STRICT;
CREATE TABLE IF NOT EXISTS remembered (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0, payload BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS request (id INTEGER PRIMARY KEY AUTOINCREMENT, verb TEXT NOT NULL, model TEXT NOT NULL) STRICT;
"""
FILE_NAME: Final = "client.sqlite3"
BUSY_S: Final = 20.0


class Database:
    """The open file. `transaction()` is the only way to write."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            _make_private(path)
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"expected a usable database {path}, got {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; durable when the block has been left. Raises `StorageError` when the disk does not take it."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._abandon()
                raise StorageError(f"expected a writable {FILE_NAME}, got: {error}") from error
            except BaseException:
                self._abandon()
                raise

    def _abandon(self) -> None:
        """SQLite ends some failed transactions by itself."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def rows(self, statement: str, parameters: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """What a SELECT gives."""
        with self._lock:
            return self._connection.execute(statement, parameters).fetchall()

    def close(self) -> None:
        """Close; further calls fail."""
        with self._lock:
            self._connection.close()


def _make_private(path: Path) -> None:
    """Of this user only, before anything is in it: SQLite gives the files beside it the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.PRIVATE_FILE))
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if file.exists():
            file.chmod(durable.PRIVATE_FILE)
