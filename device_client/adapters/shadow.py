"""`ports.ShadowRuns`: each candidate in a process of its own, behind everything else on the machine.

The caller's thread copies the inputs that are chosen and goes on; a thread here hands them to the process and waits for
its answers. Whatever the process does (crash, hang, grow) ends with it: it is started anew after a pause, and given up
after `MAX_FAILURES` in a row. Where the device is short of memory, the shadow is what goes first; it comes back when there
is memory again. Its share of time is of one processor, and it waits off what it has used.
"""

import json
import logging
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from device_client.ports import Offered, OpenSlot, ShadowAnswer
from device_client.wire.shadow import ShadowBudget

log = logging.getLogger(__name__)

CHILD: Final = "device_client.runtimes.shadow_child"
WAITING: Final = 4  # inferences that may wait for the candidate; more are skipped
MAX_INPUT_BYTES: Final = 8 * 2**20
MAX_LINE_BYTES: Final = 4_096
LOADS_WITHIN_S: Final = 120.0
ANSWERS_WITHIN_S: Final = 120.0  # at the lowest priority of a busy machine, slow is not hung
MAX_FAILURES: Final = 3
PAUSE_S: Final = 1.0  # before the next start; twice as long after each failure
SHORT_PAUSE_S: Final = 5.0
POLL_S: Final = 0.2
SPARE_RAM_BYTES: Final = 64 * 2**20  # what must be free beside a running shadow
BASE_RAM_BYTES: Final = 64 * 2**20  # interpreter and runtime
RAM_PER_WEIGHT: Final = 3  # in transit, in the runtime, and its workspace
ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class _LostError(Exception):
    """The process is of no use any more."""


class ChildShadows:
    """`free_ram` says how many bytes of memory the machine can spare, or None where it cannot tell."""

    def __init__(self, free_ram: Callable[[], int | None], *, answers_within_s: float = ANSWERS_WITHIN_S) -> None:
        self._free_ram = free_ram
        self._answers_within_s = answers_within_s

    def start(self, slot: OpenSlot, budget: ShadowBudget, answered: Callable[[ShadowAnswer], None]) -> "ChildShadow":
        return ChildShadow(slot, budget, answered, self._free_ram, self._answers_within_s)


class ChildShadow:
    """`ports.ShadowRun`."""

    def __init__(
        self,
        slot: OpenSlot,
        budget: ShadowBudget,
        answered: Callable[[ShadowAnswer], None],
        free_ram: Callable[[], int | None],
        answers_within_s: float,
    ) -> None:
        self._named = f"{slot.manifest.model} {slot.manifest.version}"
        self._frames = (slot.manifest.encode(), slot.files[slot.manifest.weights.name])
        self._budget = budget
        self._answered = answered
        self._free_ram = free_ram
        self._answers_within_s = answers_within_s
        self._chosen: queue.Queue[tuple[str, Mapping[str, Any]]] = queue.Queue(WAITING)
        self._stopping = threading.Event()
        self._owed = 0.0  # of an inference: one is chosen whenever it is whole
        self._lock = threading.Lock()
        self.pid: int | None = None  # of the process at work, for whoever wants to look at it
        self._failures = 0
        self._used_s = 0.0
        self._since = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="modelfleet-shadow", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ the caller's side

    def offer(self, inputs: Mapping[str, Any], nonce: str) -> Offered:
        with self._lock:
            self._owed += self._budget.inference_share
            if self._owed < 1.0 or self._stopping.is_set():
                return Offered.PASSED
            self._owed -= 1.0
        if self._chosen.full() or (copied := _copied(inputs)) is None:
            return Offered.SKIPPED
        try:
            self._chosen.put_nowait((nonce, copied))
        except queue.Full:
            return Offered.SKIPPED
        return Offered.CHOSEN

    def stop(self) -> None:
        self._stopping.set()

    # ------------------------------------------------------------ its own thread

    def _work(self) -> None:
        while not self._stopping.is_set() and self._failures < MAX_FAILURES:
            if self._is_short(starting=True):
                self._skip_all()
                self._stopping.wait(SHORT_PAUSE_S)
                continue
            try:
                self._live()
            except (_LostError, OSError) as error:
                if self._stopping.is_set():
                    break
                self._failures += 1
                log.warning("the shadow %s: %s (%d of %d)", self._named, error, self._failures, MAX_FAILURES)
                self._skip_all()
                self._stopping.wait(PAUSE_S * 2**self._failures)
        if self._failures >= MAX_FAILURES:
            log.error("the shadow %s is given up; what is served goes on", self._named)
        self._stopping.set()
        self._skip_all()

    def _live(self) -> None:
        """One process from its start to its end; returns where that was no fault of the candidate's."""
        process = subprocess.Popen(
            [sys.executable, "-m", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, **ONE_THREAD},
        )
        self.pid = process.pid
        try:
            talk = _Talk(process, self._stopping)
            for frame in self._frames:
                talk.send(frame, LOADS_WITHIN_S)
            self._heed(talk.hear(LOADS_WITHIN_S))
            while not self._stopping.is_set():
                if self._is_short(starting=False):
                    log.warning("the shadow %s makes room: memory is short", self._named)
                    return
                try:
                    nonce, inputs = self._chosen.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                self._ask(talk, nonce, _packed(inputs))
        finally:
            self.pid = None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _ask(self, talk: "_Talk", nonce: str, packed: bytes) -> None:
        try:
            talk.send(packed, self._answers_within_s)
            said = talk.hear(self._answers_within_s)
            if "error" in said:
                log.info("the shadow %s: %s", self._named, said["error"])
                self._answered(ShadowAnswer(nonce, failed=True))
                return
            top = said.get("top")
            answer = ShadowAnswer(
                nonce,
                top=top if isinstance(top, int) else None,
                latency_ms=float(said["latency_ms"]),
                is_nan=bool(said["nan"]),
            )
            used_s = float(said["cpu_s"])
        except (_LostError, KeyError, TypeError, ValueError):
            if not self._stopping.is_set():
                self._answered(ShadowAnswer(nonce, failed=True))
            raise _LostError("expected an answer, got none: it crashed, hung or said nonsense") from None
        self._answered(answer)
        self._failures = 0
        self._heed(said)
        self._rest(used_s)

    def _heed(self, said: Mapping[str, Any]) -> None:
        """Raises for a candidate that does not load or takes more memory than it may."""
        if "error" in said:
            raise _LostError(str(said["error"]))
        taken = int(said.get("rss_bytes", 0))
        if self._budget.ram_bytes and taken > self._budget.ram_bytes:
            self._failures = MAX_FAILURES  # it would do so again
            raise _LostError(f"expected at most {self._budget.ram_bytes} bytes of memory, got {taken}")

    def _rest(self, used_s: float) -> None:
        """Wait until what was used is within the share of the time that has passed."""
        self._used_s += used_s
        self._stopping.wait(max(0.0, self._used_s / self._budget.time_share - (time.monotonic() - self._since)))

    def _is_short(self, *, starting: bool) -> bool:
        free = self._free_ram()
        needed = SPARE_RAM_BYTES
        if starting:
            needed += BASE_RAM_BYTES + RAM_PER_WEIGHT * len(self._frames[1])
        return free is not None and free < needed

    def _skip_all(self) -> None:
        while True:
            try:
                nonce, _ = self._chosen.get_nowait()
            except queue.Empty:
                return
            self._answered(ShadowAnswer(nonce, skipped=True))


class _Talk:
    """Frames to the process and lines from it, each within a time."""

    def __init__(self, process: "subprocess.Popen[bytes]", stopping: threading.Event) -> None:
        if process.stdin is None or process.stdout is None:
            raise _LostError("expected pipes to the process, got none")
        self._stdin, self._stdout = process.stdin.fileno(), process.stdout.fileno()
        self._stopping = stopping
        self._heard = b""
        os.set_blocking(self._stdin, False)

    def send(self, frame: bytes, within_s: float) -> None:
        until = time.monotonic() + within_s
        for part in (len(frame).to_bytes(4, "big"), frame):
            view = memoryview(part)
            while view:
                self._wait(until)
                if not select.select([], [self._stdin], [], POLL_S)[1]:
                    continue
                try:
                    view = view[os.write(self._stdin, view) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise _LostError("the process has ended") from None

    def hear(self, within_s: float) -> Mapping[str, Any]:
        until = time.monotonic() + within_s
        while b"\n" not in self._heard:
            self._wait(until)
            if not select.select([self._stdout], [], [], POLL_S)[0]:
                continue
            more = os.read(self._stdout, MAX_LINE_BYTES)
            if not more or len(self._heard) > MAX_LINE_BYTES:
                raise _LostError("the process has ended")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        said = json.loads(line)
        if not isinstance(said, dict):
            raise _LostError(f"expected an object, got {line[:40]!r}")
        return said

    def _wait(self, until: float) -> None:
        if self._stopping.is_set() or time.monotonic() > until:
            raise _LostError("it took too long")


def _copied(inputs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The inputs as they are now, whatever their owner does with them next; None where they are too large for that."""
    import numpy as np

    if sum(getattr(value, "nbytes", 0) for value in inputs.values()) > MAX_INPUT_BYTES:
        return None
    return {name: np.array(value, copy=True) for name, value in inputs.items()}


def _packed(inputs: Mapping[str, Any]) -> bytes:
    """As the child reads them: a JSON head of types and shapes behind its length, then the bytes of each array."""
    import numpy as np

    arrays = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
    head = json.dumps({name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}).encode()
    return b"".join((len(head).to_bytes(4, "big"), head, *(array.tobytes() for array in arrays.values())))
