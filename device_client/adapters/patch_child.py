"""The child process that applies one patch: limits itself, does what its one argument (JSON) says, exits.

Run as `python -m device_client.adapters.patch_child JOB`. A patch that is streamed comes on stdin; before that, one line on
stdout says from which byte on it is wanted. The exit status says whose fault a failure is (`Exit`), the last line on
stderr what it was. A streamed patch whose stream ends early leaves everything in order for the next child.
"""

import fcntl
import json
import os
import resource
import select
import sys
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from device_client.wire.errors import WireError

LOCK_WAIT_S: Final = 10.0
POLL_S: Final = 0.25
CPU_GRACE_S: Final = 10
NO_SPACE: Final = frozenset({28, 122})  # ENOSPC, EDQUOT
STDIN: Final = 0


class Exit(IntEnum):
    """Why the child ended."""

    DONE = 0
    BAD_PATCH = 3
    ENDED_EARLY = 4
    NO_SPACE = 5
    BUSY = 6


class BusyError(Exception):
    """An earlier child still has the files."""


def main() -> int:
    """Do the job."""
    from device_client.adapters.patching.stream import PatchEndedError

    job = json.loads(sys.argv[1])
    for limit, value in (
        (resource.RLIMIT_AS, int(job["memory_bytes"])),
        (resource.RLIMIT_FSIZE, int(job["file_bytes"])),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    # The soft limit ends it by SIGXCPU; at the hard one it would be SIGKILL, which means somebody else.
    resource.setrlimit(resource.RLIMIT_CPU, (int(job["cpu_s"]), int(job["cpu_s"]) + CPU_GRACE_S))
    try:
        WAYS[job["way"]](job)
    except (WireError, MemoryError) as error:
        return _failed(Exit.BAD_PATCH, error)
    except PatchEndedError as error:
        return _failed(Exit.ENDED_EARLY, error)
    except BusyError as error:
        return _failed(Exit.BUSY, error)
    except OSError as error:
        return _failed(Exit.NO_SPACE if error.errno in NO_SPACE else Exit.BAD_PATCH, error)
    return Exit.DONE


def _failed(status: Exit, error: BaseException) -> int:
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    return status


def _whole(job: Mapping[str, Any]) -> None:
    """Apply a patch that is here as a file, in memory."""
    from device_client.wire import delta

    output = delta.apply(
        delta.Codec(job["codec"]),
        Path(job["old"]).read_bytes(),
        Path(job["patch"]).read_bytes(),
        expected_bytes=int(job["new_bytes"]),
    )
    with Path(job["output"]).open("wb") as file:
        file.write(output)
        file.flush()
        os.fsync(file.fileno())


def _streamed(job: Mapping[str, Any]) -> None:
    """Apply a patch that comes on stdin."""
    from device_client.adapters.patching.files import DiskFolder, read_only
    from device_client.adapters.patching.staged import Expected, StagedApply

    folder = DiskFolder(Path(job["work"]))
    lock = _locked(folder)
    apply = StagedApply(folder, Expected.of(job), time.monotonic)
    sys.stdout.write(f"{apply.start.patch_offset} {apply.start.block}\n")
    sys.stdout.flush()
    apply.run(_taker(apply.sync_if_due), read_only(Path(job["old"])))
    del lock


def _in_place(job: Mapping[str, Any]) -> None:
    """Turn the old file into the new one: says a word once it has proved that it can, and waits for one to begin."""
    from device_client.adapters.patching.files import DiskFolder, read_only, reservable
    from device_client.adapters.patching.in_place import InPlaceApply, spare
    from device_client.adapters.patching.staged import Expected
    from device_client.adapters.patching.stream import PatchEndedError

    folder = DiskFolder(Path(job["work"]))
    lock = _locked(folder)
    old = None
    apply = InPlaceApply(folder, Expected.of(job), read_only(Path(job["patch"])), time.monotonic)
    patch_offset = block = 0
    if apply.begun:
        start = apply.resume()
        patch_offset, block = start.patch_offset, start.block
    else:
        old = reservable(Path(job["old"]))
        apply.rehearse(old)
    sys.stdout.write(f"{patch_offset} {block}\n")
    sys.stdout.flush()
    if not os.read(STDIN, 1):
        if old is not None:
            spare(old)
        raise PatchEndedError("expected a word to begin, got none")
    apply.run(_has_ended)
    del lock


def _has_ended() -> bool:
    """Whether nobody holds the other end of stdin any more."""
    return bool(select.select([STDIN], [], [], 0)[0]) and not os.read(STDIN, 1)


def _locked(folder: Any) -> Any:
    """Wait for an earlier child whose parent has died: it ends as soon as its stdin does."""
    file = folder.open("lock")
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise BusyError(f"expected the files of an earlier child within {LOCK_WAIT_S:g} s") from None
            time.sleep(POLL_S)
        else:
            return file


def _taker(idle: Callable[[], None]) -> Callable[[int], bytes]:
    """Reads stdin; calls `idle` now and then while there is nothing to read."""

    def take(length: int) -> bytes:
        while not select.select([STDIN], [], [], POLL_S)[0]:
            idle()
        return os.read(STDIN, length)

    return take


WAYS: Final[Mapping[str, Callable[[Mapping[str, Any]], None]]] = {
    "whole": _whole,
    "streamed": _streamed,
    "in-place": _in_place,
}


if __name__ == "__main__":
    sys.exit(main())
