"""Who listens on a port: one of our processes, somebody else, nobody. And ports that are promised to nobody else.

A port that is free when it is looked at may be taken when a process wants it: by another `up`, which looked at the same
moment, or by anything. So an `up` reserves its ports among all of this machine, and believes a listener only if the
process that it started owns it.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from fleet.entrypoints.up.addresses import LOOPBACK

_LISTEN_STATE: Final = "0A"
_ATTEMPTS: Final = 100


class Listening(StrEnum):
    """Whose the listeners of a port are."""

    NOBODY = "nobody"
    OURS = "ours"
    FOREIGN = "foreign"


def listening(port: int, leader: int | None, proc: Path = Path("/proc")) -> Listening:
    """Whether the session that the process `leader` leads listens on `port`, alone (sockets may share a port).

    Where the system does not tell (no procfs), whoever answers is believed.
    """
    inodes = _listening_inodes(port, proc)
    if inodes is None:
        return Listening.OURS if _answers(port) else Listening.NOBODY
    if not inodes:
        return Listening.NOBODY
    owned = set() if leader is None else _sockets_of_session(leader, proc)
    return Listening.OURS if inodes <= owned else Listening.FOREIGN


class PortReservations:
    """Ports that are ours to use; other `up`s of this machine pass over them until this process ends."""

    def __init__(self, is_free: Callable[[int], bool], any_free: Callable[[], int]) -> None:
        self._is_free = is_free
        self._any_free = any_free
        self._held: dict[int, socket.socket] = {}

    def take(self, port: int) -> bool:
        """Reserve a port that nobody listens on; False where somebody does or has reserved it."""
        if port in self._held:
            return False
        # A name without a file: it vanishes with the process, however that ends. Not inherited by what we start.
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with suppress(FileNotFoundError):  # systems without such names: ports are then only looked at
                mark.bind(f"\0modelfleet-port-{port}")
            free = self._is_free(port)
        except OSError:
            free = False
        except BaseException:
            mark.close()
            raise
        if free:
            self._held[port] = mark
        else:
            mark.close()
        return free

    def take_any(self) -> int:
        """Reserve a port that the system hands out; raises OSError when it hands out none that can be had."""
        for _ in range(_ATTEMPTS):
            port = self._any_free()
            if self.take(port):
                return port
        raise OSError(f"expected a free port, got none in {_ATTEMPTS} attempts")

    def release(self) -> None:
        """Give every port back."""
        for mark in self._held.values():
            mark.close()
        self._held.clear()


def _listening_inodes(port: int, proc: Path) -> set[str] | None:
    found: set[str] = set()
    tables = [table for table in (proc / "net" / "tcp", proc / "net" / "tcp6") if table.exists()]
    for table in tables:
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN_STATE and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found if tables else None


def _sockets_of_session(leader: int, proc: Path) -> set[str]:
    return {inode for pid in _session(leader, proc) for inode in _sockets(proc / str(pid) / "fd")}


def _session(leader: int, proc: Path) -> Iterator[int]:
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            # The name of a process may hold anything, so what follows its closing bracket is read.
            session = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[3]
            if int(session) == leader:
                yield int(entry.name)


def _sockets(descriptors: Path) -> Iterator[str]:
    with suppress(OSError):
        for descriptor in descriptors.iterdir():
            with suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    yield target.removeprefix("socket:[").removesuffix("]")


def _answers(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
