"""`ports.Patcher`: deltas are applied in a child process that may use little memory, time and disk.

A hostile bsdiff4 patch inflates far beyond what its header announces (measured: 1.5 KB to 4 GB). The child's limits
turn that into a refusal; the result is hashed by whoever asked for it. A streamed patch goes through a pipe: it is applied
before its own hash could be known, which is why what a decoder could be made to do is limited in the same way.
"""

import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from device_client.adapters.patch_child import Exit
from device_client.adapters.patching.journal import patch_bytes_taken
from device_client.core.errors import CancelledError, DeviceError, KilledError, NoSpaceError, PatchError, TransferError
from device_client.core.room import IN_PLACE_BESIDE_BYTES, STREAM_BESIDE_BYTES
from device_client.ports import PatchJob

CHILD: Final = "device_client.adapters.patch_child"
BASE_MEMORY_BYTES: Final = 256 * 2**20  # interpreter, libraries and allocator arenas, as address space
MEMORY_PER_BYTE: Final = 4  # old, new, inflated difference, one copy
STREAM_MEMORY_BYTES: Final = 256 * 2**20  # address space; at most 48 MiB become resident, whatever the model
CPU_S: Final = 60
CPU_S_PER_MB: Final = 1
WALL_FACTOR: Final = 4
STARTS_WITHIN_S: Final = 60.0
ENDS_WITHIN_S: Final = 20.0  # to sync what it has made
POLL_S: Final = 0.2
# Number libraries start a thread per core otherwise, each with a stack and an arena.
ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
# What a hostile patch can bring about is its own death by a limit or a fault, never these two.
OUTSIDE: Final = (-signal.SIGKILL, -signal.SIGTERM)
ERRORS: Final[Mapping[int, type[DeviceError]]] = {
    **dict.fromkeys(OUTSIDE, KilledError),
    Exit.NO_SPACE: NoSpaceError,
    Exit.ENDED_EARLY: TransferError,
    Exit.BUSY: TransferError,
}

log = logging.getLogger(__name__)


class ChildPatcher:
    """Starts one child per patch."""

    def apply(self, job: PatchJob, patch: Path) -> None:
        job.work.mkdir(exist_ok=True)
        job.output.unlink(missing_ok=True)
        memory_bytes = BASE_MEMORY_BYTES + MEMORY_PER_BYTE * (
            job.old.stat().st_size + job.new_bytes + patch.stat().st_size
        )
        limits = {"memory_bytes": memory_bytes, "file_bytes": job.new_bytes}
        with _child("whole", job, patch=str(patch), output=str(job.output), **limits) as child:
            try:
                child.end(_cpu_s(job) * WALL_FACTOR, _never)
            except (PatchError, NoSpaceError):
                job.output.unlink(missing_ok=True)
                raise

    def stream(self, job: PatchJob, feed: Callable[[int], Iterator[bytes]], cancelled: Callable[[], bool]) -> int:
        limits = {"memory_bytes": STREAM_MEMORY_BYTES, "file_bytes": job.new_bytes + STREAM_BESIDE_BYTES}
        taken = 0
        with _child("streamed", job, **limits) as child:
            for chunk in feed(child.wanted_from(cancelled)):
                if not child.give(chunk, cancelled):
                    break
                taken += len(chunk)
            child.end(_cpu_s(job) * WALL_FACTOR, cancelled)
        return taken

    def apply_in_place(
        self, job: PatchJob, patch: Path, give_up: Callable[[], None], cancelled: Callable[[], bool]
    ) -> None:
        within_s = _cpu_s(job) * WALL_FACTOR
        file_bytes = max(job.new_bytes, patch.stat().st_size) + IN_PLACE_BESIDE_BYTES
        limits = {"memory_bytes": STREAM_MEMORY_BYTES, "file_bytes": file_bytes}
        with _child("in-place", job, patch=str(patch), **limits) as child:
            child.wanted_from(cancelled, within_s)
            give_up()
            child.give(b"!", _never)
            child.wait(within_s, _never)

    def taken(self, work: Path) -> int:
        return patch_bytes_taken(work)


def _cpu_s(job: PatchJob) -> int:
    return CPU_S + CPU_S_PER_MB * (job.new_bytes // 2**20)


@contextmanager
def _child(way: str, job: PatchJob, **more: str | int) -> "Iterator[_Child]":
    """A started child; whatever happens, it is gone in the end. It is given time to leave its work in order."""
    told = {
        "way": way,
        "codec": job.codec.value,
        "old": str(job.old),
        "work": str(job.work),
        "patch_sha256": job.patch_sha256,
        "patch_bytes": job.patch_bytes,
        "old_sha256": job.old_sha256,
        "new_sha256": job.new_sha256,
        "new_bytes": job.new_bytes,
        "cpu_s": _cpu_s(job),
        **more,
    }
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", CHILD, json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **ONE_THREAD},
        )
    except OSError as error:
        raise PatchError(f"expected a process that applies the patch, got {error}") from error
    with process:
        try:
            yield _Child(process)
        finally:
            _close(process.stdin)
            try:
                process.wait(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


class _Child:
    """The parent's end."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise PatchError("expected pipes to the process that applies the patch, got none")
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        os.set_blocking(self._stdin.fileno(), False)

    def wanted_from(self, cancelled: Callable[[], bool], within_s: float = STARTS_WITHIN_S) -> int:
        """The child's first word: from which byte on it wants the patch."""
        until = time.monotonic() + within_s
        while not select.select([self._stdout], [], [], POLL_S)[0]:
            _heed(cancelled)
            if time.monotonic() > until:
                raise PatchError(f"expected a word within {within_s:g} s from the process that applies the patch")
        line = self._stdout.readline()
        if not line:
            self.end(ENDS_WITHIN_S, cancelled)
            raise PatchError("expected a word from the process that applies the patch, got none")
        start, block = (int(word) for word in line.split())
        if block:
            log.info("a patch goes on at its byte %d, block %d", start, block)
        return start

    def give(self, chunk: bytes, cancelled: Callable[[], bool]) -> bool:
        """Hand over `chunk`; False if the child has gone, which `end` explains."""
        view = memoryview(chunk)
        while view:
            _heed(cancelled)
            if not select.select([], [self._stdin], [], POLL_S)[1]:
                continue
            try:
                view = view[os.write(self._stdin.fileno(), view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return False
        return True

    def end(self, within_s: float, cancelled: Callable[[], bool]) -> None:
        """There is no more to give: wait for the outcome; raises what the exit status means."""
        _close(self._stdin)
        self.wait(within_s, cancelled)

    def wait(self, within_s: float, cancelled: Callable[[], bool]) -> None:
        """As `end`, for a child that stops as soon as it has no parent any more."""
        until = time.monotonic() + within_s
        while (status := self._process.poll()) is None:
            _heed(cancelled)
            if time.monotonic() > until:
                self._process.kill()
                raise PatchError(f"expected a patched file within {within_s:g} s")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL_S)
        if status == Exit.DONE:
            return
        last = self._stderr.read().decode(errors="replace").strip().rsplit("\n", 1)[-1]
        said = f"expected a patched file, got exit status {status}: {last}"[:300]
        raise ERRORS.get(status, PatchError)(said)


def _never() -> bool:
    return False


def _heed(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise CancelledError("the application of a patch was stopped")


def _close(pipe: IO[bytes] | None) -> None:
    with suppress(BrokenPipeError):
        if pipe is not None:
            pipe.close()
