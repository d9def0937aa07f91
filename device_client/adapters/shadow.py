"""`ports.ShadowRuns`: each candidate in a process of its own, behind everything else on the machine.

The caller's thread copies the inputs that are chosen, lays them down and goes on: it wakes nobody. A thread here looks ten
times a second, hands on what lies there and fetches what was answered, so that it seldom holds the interpreter's lock while an
inference wants it. Whatever the process does (crash, hang, grow) ends with it: it is started anew after a pause, and given up
after `MAX_FAILURES` in a row. Where the device is short of memory, the shadow is what goes first; it comes back when there
is memory again. Its share of time is of one processor, and it waits off what it has used. What it was too starved to answer is
skipped, never failed.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from device_client.adapters.candidate import CandidateProcess, LostError
from device_client.ports import Offered, OpenSlot, ShadowAnswer
from device_client.wire.shadow import ShadowBudget

log = logging.getLogger(__name__)

BEAT_S: Final = 0.1
WAITING: Final = 8  # inferences that may wait for the candidate; more are skipped
MAX_INPUT_BYTES: Final = 8 * 2**20
MAX_WAITING_BYTES: Final = 2 * MAX_INPUT_BYTES
ANSWERS_WITHIN_S: Final = 120.0  # of a processor, or of waiting for nothing: at the lowest priority, slow is not hung
MAX_FAILURES: Final = 3
PAUSE_S: Final = 1.0  # before the next start; twice as long after each failure
SHORT_PAUSE_S: Final = 5.0
MEMORY_EVERY_S: Final = 1.0
SPARE_RAM_BYTES: Final = 64 * 2**20  # what must be free beside a running shadow
BASE_RAM_BYTES: Final = 64 * 2**20  # interpreter and runtime
RAM_PER_WEIGHT: Final = 3  # in transit, in the runtime, and its workspace


class _Chosen(NamedTuple):
    """The inputs of one inference, copied."""

    nonce: str
    inputs: Mapping[str, Any]
    plain: frozenset[str]  # the names of those that were no arrays: a runtime gives them the type that it needs
    size_bytes: int


class ChildShadows:
    """`free_ram` says how many bytes of memory the machine can spare, or None where it cannot tell.

    Candidates take what time everything else leaves, unless `gives_way` is false.
    """

    def __init__(
        self,
        free_ram: Callable[[], int | None],
        *,
        answers_within_s: float = ANSWERS_WITHIN_S,
        gives_way: bool = True,
    ) -> None:
        self._free_ram = free_ram
        self._answers_within_s = answers_within_s
        self._gives_way = gives_way

    def start(self, slot: OpenSlot, budget: ShadowBudget, answered: Callable[[ShadowAnswer], None]) -> "ChildShadow":
        return ChildShadow(slot, budget, answered, self._free_ram, self._answers_within_s, gives_way=self._gives_way)


class ChildShadow:
    """`ports.ShadowRun`."""

    def __init__(
        self,
        slot: OpenSlot,
        budget: ShadowBudget,
        answered: Callable[[ShadowAnswer], None],
        free_ram: Callable[[], int | None],
        answers_within_s: float,
        *,
        gives_way: bool,
    ) -> None:
        self._named = f"{slot.manifest.model} {slot.manifest.version}"
        self._frames = (slot.manifest.encode(), slot.files[slot.manifest.weights.name])
        self._budget = budget
        self._answered = answered
        self._free_ram = free_ram
        self._answers_within_s = answers_within_s
        self._gives_way = gives_way
        self._waiting: deque[_Chosen] = deque()  # appended to by callers, taken from by the thread: both are atomic
        self._stopping = threading.Event()
        self._owed = 0.0  # of an inference: one is chosen whenever it is whole
        self._lock = threading.Lock()  # between callers; the thread never has it
        self.pid: int | None = None  # of the process at work, for whoever wants to look at it
        self._asked: deque[str] = deque()  # what the process has not answered, in the order in which it will
        self._failures = 0
        self._used_s = 0.0
        self._each_s: float | None = None
        self._since = time.monotonic()
        self._looked_at = 0.0
        self._thread = threading.Thread(target=self._work, name="modelfleet-shadow", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ the caller's side

    def offer(self, inputs: Mapping[str, Any], nonce: str) -> Offered:
        with self._lock:
            self._owed += self._budget.inference_share
            if self._owed < 1.0 or self._stopping.is_set():
                return Offered.PASSED
            self._owed -= 1.0
            waiting = tuple(self._waiting)
            room = MAX_WAITING_BYTES - sum(item.size_bytes for item in waiting)
            if len(waiting) >= WAITING or (chosen := _chosen(nonce, inputs, room)) is None:
                return Offered.SKIPPED
            self._waiting.append(chosen)
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
            except (LostError, OSError) as error:
                self._failures += 1
                log.warning("the shadow %s: %s (%d of %d)", self._named, error, self._failures, MAX_FAILURES)
                if self._asked and not getattr(error, "blameless", True):
                    self._answered(ShadowAnswer(self._asked.popleft(), failed=True))
                self._skip_all()
                if self._failures < MAX_FAILURES:
                    self._stopping.wait(PAUSE_S * 2**self._failures)
        if self._failures >= MAX_FAILURES:
            log.error("the shadow %s is given up; what is served goes on", self._named)
        self._stopping.set()
        self._skip_all()

    def _live(self) -> None:
        """One process from its start to its end; returns where that was no fault of the candidate's."""
        process = CandidateProcess(gives_way=self._gives_way)
        self.pid = process.pid
        try:
            for frame in self._frames:
                process.send(frame)
            is_loaded = False
            while not self._stopping.wait(BEAT_S):
                for said in process.turn():
                    if is_loaded:
                        self._hear(said)
                    else:
                        self._heed(said)
                        is_loaded = True
                if (self._asked or not is_loaded) and process.is_hung(self._answers_within_s):
                    raise LostError(f"expected an answer within {self._answers_within_s:g} s, got none: it hangs")
                if self._is_short(starting=False):
                    log.warning("the shadow %s makes room: memory is short", self._named)
                    return
                if is_loaded:
                    self._ask(process)
        finally:
            self.pid = None
            process.close()

    def _ask(self, process: CandidateProcess) -> None:
        """Hand on what lies there: as much as it does in one beat, if its share of the time allows anything."""
        if not self._waiting or self._used_s > self._budget.time_share * (time.monotonic() - self._since):
            return
        if not self._asked:
            process.rested()
        fits = 1 if self._each_s is None else max(1, int(BEAT_S / max(self._each_s, 1e-6)))
        while self._waiting and len(self._asked) < fits:
            chosen = self._waiting.popleft()
            self._asked.append(chosen.nonce)
            process.send(*_parts(chosen))

    def _hear(self, said: Mapping[str, Any]) -> None:
        """One answer; raises `LostError` for one that cannot be read or that was not asked for."""
        if not self._asked:
            raise LostError("expected no answer, got one")
        nonce = self._asked[0]
        try:
            if "error" in said:
                log.info("the shadow %s: %s", self._named, said["error"])
                answer, used_s = ShadowAnswer(nonce, failed=True), 0.0
            else:
                top, latency_ms = said.get("top"), said["latency_ms"]
                used_s = float(said["cpu_s"])
                answer = ShadowAnswer(
                    nonce,
                    top=top if isinstance(top, int) else None,
                    latency_ms=None if latency_ms is None else float(latency_ms),
                    is_nan=bool(said["nan"]),
                )
        except (KeyError, TypeError, ValueError):
            raise LostError("expected an answer, got nonsense") from None
        self._asked.popleft()
        self._answered(answer)
        if answer.failed:
            return
        self._failures = 0
        self._used_s += used_s
        self._each_s = used_s
        self._heed(said)

    def _heed(self, said: Mapping[str, Any]) -> None:
        """Raises for a candidate that does not load or takes more memory than it may."""
        if "error" in said:
            raise LostError(str(said["error"]))
        taken = int(said.get("rss_bytes", 0))
        if self._budget.ram_bytes and taken > self._budget.ram_bytes:
            self._failures = MAX_FAILURES  # it would do so again
            raise LostError(f"expected at most {self._budget.ram_bytes} bytes of memory, got {taken}", blameless=True)

    def _is_short(self, *, starting: bool) -> bool:
        if not starting and time.monotonic() - self._looked_at < MEMORY_EVERY_S:
            return False
        self._looked_at = time.monotonic()
        free = self._free_ram()
        needed = SPARE_RAM_BYTES
        if starting:
            needed += BASE_RAM_BYTES + RAM_PER_WEIGHT * len(self._frames[1])
        return free is not None and free < needed

    def _skip_all(self) -> None:
        while self._asked:
            self._answered(ShadowAnswer(self._asked.popleft(), skipped=True))
        while self._waiting:
            self._answered(ShadowAnswer(self._waiting.popleft().nonce, skipped=True))


def _chosen(nonce: str, inputs: Mapping[str, Any], room_bytes: int) -> _Chosen | None:
    """The inputs as they are now, whatever their owner does with them next; None where they cannot be handed over."""
    import numpy as np

    room_bytes = min(MAX_INPUT_BYTES, room_bytes)
    if sum(getattr(value, "nbytes", 0) for value in inputs.values()) > room_bytes:
        return None
    try:
        copied = {name: np.array(value, copy=True, order="C") for name, value in inputs.items()}
    except (TypeError, ValueError, OverflowError):  # what no array can be made of; the champion has its own view of it
        return None
    size = sum(array.nbytes for array in copied.values())
    if size > room_bytes or any(array.dtype.hasobject for array in copied.values()):
        return None
    return _Chosen(nonce, copied, frozenset(name for name in inputs if not isinstance(inputs[name], np.ndarray)), size)


def _parts(chosen: _Chosen) -> "tuple[bytes | memoryview, ...]":
    """As the child reads them: a JSON head of types and shapes behind its length, then the bytes of each array."""
    import numpy as np

    head = json.dumps(
        {name: [array.dtype.str, list(array.shape), name in chosen.plain] for name, array in chosen.inputs.items()}
    ).encode()
    arrays = (array.reshape(-1).view(np.uint8).data for array in chosen.inputs.values() if array.size)
    return (len(head).to_bytes(4, "big"), head, *arrays)
