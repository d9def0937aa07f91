"""Which of many tensors of one shape hold numbers like these, whatever they are called: by sketches of 256 bits.

A bit says on which side of a probe's median one number lies. Versions of a tensor agree in nearly all bits, also when they are of
another type; unrelated ones agree in half of them. Of up to `_COMPARED` tensors all sketches are compared; of more, those that
agree in all bits of one word of sixteen somewhere. So a look-up costs about a millisecond, whatever the number of tensors.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_BITS: Final = 256
_WORDS: Final = _BITS // 16
_COMPARED: Final = 1 << 12
# Of each word, at most so many: where more agree, as in constant tensors, one is as good as the other.
_PER_WORD: Final = _COMPARED // _WORDS


def sketch(numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The sketch of some numbers of a tensor, the same places of each."""
    kept = numbers[:_BITS]
    return np.packbits(np.resize(kept > np.median(kept), _BITS))


class Sketches:
    """Sketches of the tensors of one shape, by their numbers in it."""

    def __init__(self, found: Sequence[NDArray[np.uint8]]) -> None:
        self._all = np.stack(found)
        self._orders: list[NDArray[np.int64]] = []
        self._words: list[NDArray[np.uint16]] = []
        if len(found) > _COMPARED:
            for words in self._all.view(np.uint16).T:
                order = np.argsort(words, kind="stable")
                self._orders.append(order.astype(np.int64))
                self._words.append(words[order])

    def nearest(self, wanted: NDArray[np.uint8], count: int) -> list[int]:
        """The `count` likeliest ones, the best first."""
        near = self._near(wanted)
        bits = np.bitwise_count(self._all[near].view(np.uint64) ^ wanted.view(np.uint64)).sum(axis=1)
        best = np.argsort(bits, kind="stable")[:count]
        return [int(number) for number in near[best]]

    def _near(self, wanted: NDArray[np.uint8]) -> NDArray[np.int64]:
        if not self._words:
            return np.arange(len(self._all))
        found = []
        for word, words, order in zip(wanted.view(np.uint16), self._words, self._orders, strict=True):
            first, last = np.searchsorted(words, word, "left"), np.searchsorted(words, word, "right")
            found.append(order[first : min(last, first + _PER_WORD)])
        return np.unique(np.concatenate(found))
