"""The watch over SQLite's write lock: its decisions, and a real process that is stopped inside a real transaction."""

import asyncio
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from fleet.entrypoints.up.lock_watch import Holder, LockWatch, find_holder, watch_lock, writer
from fleet.entrypoints.up.supervisor import Process
from tests.up.test_supervisor import Stage, run

LOCKS = """\
1: POSIX  ADVISORY  WRITE 5293 fe:00:3015608 120 120
2: POSIX  ADVISORY  READ 7312 fe:00:2179706 120 120
2: -> POSIX  ADVISORY  WRITE 7313 fe:00:2179706 120 120
3: POSIX  ADVISORY  WRITE 7314 fe:00:2179706 121 121
4: FLOCK  ADVISORY  WRITE 5904 fe:00:11 0 EOF
5: POSIX  ADVISORY  WRITE 99 fe:00:77 0 EOF
"""

# Takes the write lock and is stopped, the first time; another time it writes and says so.
SCRIPT = """
import os, pathlib, signal, sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
database.execute("pragma journal_mode=wal")
database.execute("create table if not exists t (a)")
database.execute("begin immediate")
mark = pathlib.Path(sys.argv[2])
if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), signal.SIGSTOP)
database.execute("insert into t values (1)")
database.execute("commit")
print("written", flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize(
    ("inode", "expected"),
    [(3015608, 5293), (2179706, None), (11, None), (77, 99), (1, None)],
    ids=["writer", "readers and waiters", "another kind of lock", "whole file", "no lock"],
)
def test_writer__table_of_locks__names_who_has_the_byte_of_the_writer(inode: int, expected: int | None) -> None:
    assert writer(LOCKS, inode) == expected


def test_look__same_holder_computes_nothing__told_once_then_ended() -> None:
    watch, stuck = LockWatch(tell_after_s=10, end_after_s=60), Holder(7, 100)
    assert [watch.look(stuck, at_s) for at_s in (0, 5, 9)] == [None, None, None]
    seen = [watch.look(stuck, at_s) for at_s in (10, 30, 60)]
    assert [(held.tell, held.end) for held in seen if held] == [(True, False), (False, False), (False, True)]
    assert watch.look(stuck, 61) is None, "counted anew while it ends"


@pytest.mark.parametrize("other", [None, Holder(8, 100), Holder(7, 101)], ids=["nobody", "another", "it computes"])
def test_look__something_moved__counted_from_there(other: Holder | None) -> None:
    watch = LockWatch(tell_after_s=10, end_after_s=60)
    watch.look(Holder(7, 100), 0)
    watch.look(other, 50)
    assert watch.look(other, 59) is None
    assert watch.look(Holder(7, 100), 61) is None


def test_find_holder__this_process_writes__is_found_until_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite3"
    assert find_holder(path) is None
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("create table t (a)")
    assert find_holder(path) is None
    database.execute("begin immediate")
    holder = find_holder(path)
    assert holder is not None
    assert holder.pid == os.getpid()
    database.execute("rollback")
    assert find_holder(path) is None
    database.close()


def test_watch_lock__process_is_stopped_inside_a_transaction__named_killed_and_started_anew(tmp_path: Path) -> None:
    database, mark = tmp_path / "db.sqlite3", tmp_path / "mark"

    async def play(stage: Stage) -> None:
        command = (sys.executable, "-c", SCRIPT, str(database), str(mark))
        await stage.supervisor.start(Process("writer", command, dict(os.environ), tmp_path))
        first = stage.supervisor.pids()["writer"]
        patience = LockWatch(tell_after_s=0.3, end_after_s=1.0)
        watching = asyncio.create_task(watch_lock(database, stage.supervisor, stage.console, patience, every_s=0.05))
        await stage.until(lambda: "written" in stage.text("logs/writer.log"), within_s=60)
        watching.cancel()
        assert stage.supervisor.pids()["writer"] != first

    stage = run(tmp_path, play)
    said = stage.terminal.getvalue()
    assert said.count("(writer) has held the write lock for") == 1
    assert "held the database's write lock for 1 s and was killed" in said
    with sqlite3.connect(database) as found:
        assert found.execute("select count(*) from t").fetchone() == (1,)
