"""The place of one candidate beside one champion: what it answered, compared with what was served and with labels.

Counts, and remembers a bounded number of answers for the labels that come later; what it remembers can be kept over a
restart. Thread-safe. It serves nothing: nobody can get an answer of the candidate out of here.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from device_client.ports import Offered, OpenSlot, ShadowAnswer, ShadowRun, ShadowRuns
from device_client.wire.shadow import ShadowBudget, ShadowTotals
from device_client.wire.sketch import LatencySketch

MAX_REMEMBERED: Final = 4_096  # answers that a label may still come for
MAX_KEPT_CHARS: Final = 64  # of an answer; pairs of longer ones are not kept over a restart


class _Pair:
    """The answers of both to one inference, and its label; None is not known yet."""

    __slots__ = ("candidate", "champion", "label")

    def __init__(self, champion: str, candidate: str | None = None) -> None:
        self.champion = champion
        self.candidate = candidate
        self.label: str | None = None


class ShadowDesk:
    """One candidate beside one champion, of the digest `champion`; `kept` is what `memory` said before a restart."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        slot: OpenSlot,
        labels: Sequence[str],
        budget: ShadowBudget,
        runs: ShadowRuns,
        champion: str = "",
        kept: str = "",
    ) -> None:
        self.digest = slot.digest
        self.budget = budget
        self._champion = champion
        self._version = slot.manifest.version
        self._labels = labels
        self._lock = threading.Lock()
        self._pairs: OrderedDict[str, _Pair] = OrderedDict(_read(kept, champion, slot.digest))
        self._to_keep: list[tuple[str, str, str]] | None = None
        self._counts: dict[str, int] = {}
        self._latency = LatencySketch()
        self._run: ShadowRun = runs.start(slot, budget, self._answered)

    def offer(self, inputs: Mapping[str, Any], champion: Callable[[], str | None], nonce: str) -> None:
        """Let the candidate have these inputs, if they are among those that are chosen. Never waits for its thread."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            # The pair is there before the candidate can have answered: its thread waits for the lock.
            offered = self._run.offer(inputs, nonce)
            if offered is Offered.SKIPPED:
                self._count("skipped")
            if offered is not Offered.CHOSEN:
                return
            answer = champion()
            if answer is not None:
                self._pairs[nonce] = _Pair(answer)
                while len(self._pairs) > MAX_REMEMBERED:
                    self._pairs.popitem(last=False)
        finally:
            self._lock.release()

    def labelled(self, nonce: str, label: str) -> None:
        """A label came for an inference."""
        with self._lock:
            pair = self._pairs.get(nonce)
            if pair is not None:
                pair.label = label
                self._settle(nonce, pair)

    def take(self) -> ShadowTotals | None:
        """What was counted since it was last taken; None if nothing was."""
        with self._lock:
            found = ShadowTotals(self._version, self.digest, **self._counts, latency=self._latency)
            self._counts, self._latency = {}, LatencySketch()
            if found.is_empty:
                return None
            self._to_keep = [
                (nonce, pair.champion, pair.candidate)
                for nonce, pair in self._pairs.items()
                if pair.candidate is not None and pair.label is None
            ]
        return found

    def memory(self) -> str | None:
        """The pairs without a label as they were when counts were last taken, so that none is counted twice after a
        restart; None if nothing was taken since this was last asked.
        """
        with self._lock:
            pairs, self._to_keep = self._to_keep, None
        if pairs is None:
            return None
        short = [pair for pair in pairs if max(map(len, pair)) <= MAX_KEPT_CHARS]
        return json.dumps({"champion": self._champion, "candidate": self.digest, "pairs": short})

    def stop(self) -> None:
        """End the candidate. What it had counted can still be taken."""
        self._run.stop()

    def _answered(self, answer: ShadowAnswer) -> None:
        with self._lock:
            if answer.skipped:
                self._count("skipped")
                self._pairs.pop(answer.nonce, None)
                return
            self._count("n")
            if answer.failed:
                self._count("errors")
                self._pairs.pop(answer.nonce, None)
                return
            if answer.latency_ms is not None:
                self._latency.add(answer.latency_ms)
            if answer.is_nan:
                self._count("nan")
            pair = self._pairs.get(answer.nonce)
            if pair is None or answer.top is None:
                return
            top = answer.top
            pair.candidate = self._labels[top] if top < len(self._labels) else str(top)
            self._count("compared")
            if pair.candidate == pair.champion:
                self._count("agreed")
            self._settle(answer.nonce, pair)

    def _settle(self, nonce: str, pair: _Pair) -> None:
        """Count a pair of which everything is known, once."""
        if pair.candidate is None or pair.label is None:
            return
        champion, candidate = pair.champion == pair.label, pair.candidate == pair.label
        right = {(True, True): "both", (True, False): "only_champion", (False, True): "only_candidate"}
        self._count(right.get((champion, candidate), "neither"))
        del self._pairs[nonce]

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1


def _read(kept: str, champion: str, candidate: str) -> list[tuple[str, _Pair]]:
    """The pairs that were kept; none of them where they are of other versions, or cannot be read."""
    try:
        found = json.loads(kept) if kept else {}
        if (found.get("champion"), found.get("candidate")) != (champion, candidate):
            return []
        return [(str(nonce), _Pair(str(own), str(other))) for nonce, own, other in found["pairs"][-MAX_REMEMBERED:]]
    except (AttributeError, KeyError, TypeError, ValueError):
        return []
