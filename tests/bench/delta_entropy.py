"""How small a patch's differences could be at best: `python -m tests.bench.delta_entropy OLD PATCH` prints one line of JSON.

`entropy_bound_bytes` is the patch with each run of differences replaced by its empirical conditional entropy, given the
contexts that the patch uses (exponent of the guess, class of the place): what an ideal coder of these symbols would
need, were it told all frequencies for nothing. Differences are taken as sign, length in bits and the five bits below the
leading one; what lies below those is counted as it is. The entropy of each block is corrected for its sample's size
(Miller and Madow, 1955), without which it would be too low. What no run of differences holds is counted as it is.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from device_client.wire.tensor1 import apply, residuals
from device_client.wire.tensor1.classes import read as read_classes
from device_client.wire.tensor1.elements import exponents
from device_client.wire.tensor1.residuals import Mode
from tests.bench.delta_process import File

if TYPE_CHECKING:
    from device_client.wire.tensor1.elements import Element, Integers
    from device_client.wire.tensor1.format import Cursor

_KEPT_BITS = 6


@dataclass
class Sums:
    """Of all runs that were read: what they took behind their contexts, and what they could."""

    coded_bytes: int = 0
    entropy_bits: float = 0.0


def entropy_bits(differences: np.ndarray, contexts: np.ndarray) -> float:
    """Conditional entropy of a run in bits, corrected for its size."""
    wide = differences.astype(np.int64)
    sizes = np.abs(wide)
    lengths = np.frexp(sizes.astype(np.float64))[1]
    below = np.maximum(lengths - _KEPT_BITS, 0)
    symbols = (sizes >> below) + (lengths.astype(np.int64) << _KEPT_BITS)
    symbols = 2 * symbols + (wide < 0)
    places = contexts.astype(np.int64) - int(contexts.min())
    pairs, cells = np.unique(places * (int(symbols.max()) + 1) + symbols, return_counts=True)
    totals = np.bincount(places)
    totals = totals[totals > 0]
    plain = float((totals * np.log2(totals)).sum() - (cells * np.log2(cells)).sum())
    return plain + (len(pairs) - len(totals)) / (2 * math.log(2)) + float(below.sum())


def bound(old: Path, patch: Path) -> dict[str, int]:
    """The patch's size beside its bound; the patch is applied to find the guesses."""
    sums = Sums()
    plain = residuals.decode

    def counted(cursor: Cursor, count: int, element: Element, guess: Integers | None) -> Integers | None:
        head = copy.copy(cursor)
        differences = plain(cursor, count, element, guess)
        if differences is None or head.take(1)[0] == Mode.RAW:
            return differences
        classes = read_classes(head, count)
        head.take(2 * head.take(1)[0])
        scale = exponents(guess, element) if guess is not None else None
        kept = differences if classes is None else classes.gather(differences)
        contexts = residuals.contexts_of(scale, classes, count)
        coded = cursor.position - head.position
        sums.coded_bytes += coded
        sums.entropy_bits += min(entropy_bits(kept, contexts), 8.0 * coded)
        return differences

    residuals.decode = counted
    try:
        apply(File(patch), File(old), lambda _offset, _content: None)
    finally:
        residuals.decode = plain
    size = patch.stat().st_size
    return {"patch_bytes": size, "entropy_bound_bytes": size - sums.coded_bytes + round(sums.entropy_bits / 8)}


if __name__ == "__main__":
    print(json.dumps(bound(Path(sys.argv[1]), Path(sys.argv[2]))))
