"""The process of a candidate as its feeder sees it: frames go in, lines come out, and nothing here waits.

What does not fit into the pipe is written at the next turn. Whether a silent process hangs is told from what it does: one
that waits for a processor or a disk is starved by the machine, which is no fault of the candidate's.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

CHILD: Final = "device_client.runtimes.shadow_child"
GIVE_WAY: Final = "--give-way"
MAX_LINE_BYTES: Final = 4_096
READ_BYTES: Final = 2**16
PIPE_BYTES: Final = 2**20  # what Linux gives to everybody; a camera's frame fits in one turn
ENDS_WITHIN_S: Final = 5.0  # between the end of its output and its own
STARVED: Final = frozenset("RD")  # runnable, or waiting for a disk: proc(5)
ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class LostError(Exception):
    """The process is of no use any more; `blameless` where that says nothing of the candidate."""

    def __init__(self, message: str, *, blameless: bool = False) -> None:
        super().__init__(message)
        self.blameless = blameless


class CandidateProcess:
    """One process from its start to its end. Used by one thread; the parts of a frame must not change until it is sent."""

    def __init__(self, *, gives_way: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", CHILD, *([GIVE_WAY] if gives_way else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, **ONE_THREAD},
        )
        self.pid = self._process.pid
        if self._process.stdin is None or self._process.stdout is None:
            raise LostError("expected pipes to the process, got none")
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._stdin, self._stdout):
            os.set_blocking(pipe, False)
        with contextlib.suppress(OSError):  # more than this user may have: then it takes more turns
            fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._to_write: deque[memoryview] = deque()
        self._heard = b""
        self._moved()

    def send(self, *parts: "bytes | memoryview") -> None:
        """Write a frame: what fits now, the rest at the next turns. Raises `LostError` if the process has ended."""
        length = sum(len(part) for part in parts).to_bytes(4, "big")
        self._to_write += [memoryview(part) for part in (length, *parts)]
        self._write()

    def turn(self) -> Sequence[Mapping[str, Any]]:
        """Write what fits, and give what it has said since. Raises `LostError` if it has ended or talks nonsense."""
        self._write()
        said = self._read()
        if said:
            self._moved()
        return said

    def rested(self) -> None:
        """Nothing was asked of it until now."""
        self._moved()

    def is_hung(self, within_s: float) -> bool:
        """Whether nothing will come any more: it had `within_s` of a processor, or waits for nothing that we know of."""
        if self._to_write or time.monotonic() - self._moved_at < within_s:
            return False
        state, cpu_s = _seen(self.pid)
        return hangs(state, cpu_s - self._cpu_s, within_s)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _moved(self) -> None:
        self._moved_at = time.monotonic()
        _, self._cpu_s = _seen(self.pid)

    def _write(self) -> None:
        while self._to_write:
            part = self._to_write[0]
            try:
                written = os.write(self._stdin, part)
            except BlockingIOError:
                return
            except BrokenPipeError:
                raise self._ended() from None
            self._moved_at = time.monotonic()
            if written < len(part):
                self._to_write[0] = part[written:]
            else:
                self._to_write.popleft()

    def _read(self) -> list[Mapping[str, Any]]:
        while True:
            try:
                more = os.read(self._stdout, READ_BYTES)
            except BlockingIOError:
                break
            if not more:
                raise self._ended()
            self._heard += more
        *lines, self._heard = self._heard.split(b"\n")
        if max(map(len, (*lines, self._heard))) > MAX_LINE_BYTES:
            raise LostError(f"expected lines of at most {MAX_LINE_BYTES} bytes, got more")
        return [_said(line) for line in lines]

    def _ended(self) -> LostError:
        """Why there is nothing more: what the system kills where memory is short has done nothing wrong itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDS_WITHIN_S)
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return LostError("the process was killed, as systems do that are short of memory", blameless=True)
        return LostError(f"expected an answer, got the end of the process (code {code})")


def hangs(state: str, cpu_s: float, within_s: float) -> bool:
    """Whether a process that has said nothing for `within_s` seconds, using `cpu_s` of a processor, hangs.

    `state` as in proc(5), empty where it is not known.
    """
    return cpu_s >= within_s or state not in STARVED


def _said(line: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise LostError(f"expected an object, got {line[:40]!r}")
    return said


def _seen(pid: int) -> tuple[str, float]:
    """The state of a process and the seconds of a processor that it has had; what cannot be read is '' and 0."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return "", 0.0
