"""Who keeps SQLite's only write lock, and does nothing with it?

A process that is stopped or hangs inside a transaction keeps all others waiting, and says nothing of it. Linux tells who
holds which lock (/proc/locks) and how much a process has computed (/proc/PID/stat). A holder that computes nothing is
named after `TELL_AFTER_S` and may be ended after `END_AFTER_S`; SQLite then rolls its transaction back. One that
computes is left alone, however long it takes. On other systems nothing is seen.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.entrypoints.up.console import Console
from fleet.entrypoints.up.supervisor import Supervisor

TELL_AFTER_S: Final = 10.0
END_AFTER_S: Final = 60.0
LOOK_S: Final = 0.5
# Of the lock bytes in the shared memory of a database in WAL mode, the one of the writer (wal.c: WAL_WRITE_LOCK).
WRITE_LOCK_BYTE: Final = 120
_LOCKS: Final = Path("/proc/locks")


@dataclass(frozen=True)
class Holder:
    """Who has the lock: a process, and how much it has computed so far, in ticks."""

    pid: int
    ticks: int


@dataclass(frozen=True)
class Held:
    """The same holder has computed nothing for `for_s`. `tell`: say so now, once; `end`: it is time to end it."""

    pid: int
    for_s: float
    tell: bool
    end: bool


class LockWatch:
    """Compares one look with the looks before. The caller looks about once a second."""

    def __init__(self, *, tell_after_s: float = TELL_AFTER_S, end_after_s: float = END_AFTER_S) -> None:
        self._tell_after_s = tell_after_s
        self._end_after_s = end_after_s
        self._holder: Holder | None = None
        self._since_s = 0.0
        self._told = False

    def look(self, holder: Holder | None, now_s: float) -> Held | None:
        """What is to be done about `holder`; None if there is nothing."""
        if holder is None or holder != self._holder:
            self._holder, self._since_s, self._told = holder, now_s, False
            return None
        for_s = now_s - self._since_s
        if for_s < self._tell_after_s:
            return None
        held = Held(holder.pid, for_s, tell=not self._told, end=for_s >= self._end_after_s)
        self._told = True
        if held.end:
            self._holder = None  # it may take a while to end; counted anew until then
        return held


async def watch_lock(
    database: Path, supervisor: Supervisor, console: Console, locks: LockWatch | None = None, *, every_s: float = LOOK_S
) -> None:
    """Until cancelled: name a process that keeps the write lock and does nothing; end it if it is the supervisor's."""
    locks, loop = locks or LockWatch(), asyncio.get_running_loop()
    while True:
        await asyncio.sleep(every_s)
        held = locks.look(find_holder(database), loop.time())
        if held is None:
            continue
        ours = {pid: name for name, pid in supervisor.pids().items()}
        name = ours.get(_family_of(held.pid) or 0)
        if held.tell:
            rest = "it is ended if that lasts" if name else "nobody can write until it goes on or ends: see to it"
            console.event(
                "database",
                f"process {held.pid} ({name or 'none of ours'}) has held the write lock for {held.for_s:.0f} s and "
                f"computes nothing; {rest}",
            )
        if held.end and name is not None:
            console.event(name, f"held the database's write lock for {held.for_s:.0f} s and was killed")
            supervisor.kill(name)


def find_holder(database: Path) -> Holder | None:
    """Who holds the write lock of this SQLite file right now; None if nobody does or it cannot be known."""
    try:
        inode = database.with_name(f"{database.name}-shm").stat().st_ino
        pid = writer(_LOCKS.read_text(encoding="ascii", errors="replace"), inode)
        return None if pid is None else Holder(pid, _ticks(pid))
    except (OSError, ValueError, IndexError):  # no such file, not Linux, or it ended meanwhile
        return None


def writer(locks: str, inode: int) -> int | None:
    """Of the kernel's table of locks, the process that has the writer's byte of this file; None without one.

    A line reads `1: POSIX  ADVISORY  WRITE 5293 fe:00:3015608 120 120`: process, file, first and last byte. Whoever only
    waits for a lock has an arrow before the word POSIX.
    """
    for line in locks.splitlines():
        words = line.split()
        if len(words) != 8 or words[1] != "POSIX" or words[3] != "WRITE":  # noqa: PLR2004 - the words of such a line
            continue
        if words[5].rpartition(":")[2] != str(inode):
            continue
        last = float("inf") if words[7] == "EOF" else int(words[7])
        if int(words[6]) <= WRITE_LOCK_BYTE <= last:
            return int(words[4])
    return None


def _family_of(pid: int) -> int | None:
    """The process that leads the session of this one; None if it has ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _ticks(pid: int) -> int:
    """What it has computed, for itself and in the kernel. The name, which may hold anything, ends at the last bracket."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
