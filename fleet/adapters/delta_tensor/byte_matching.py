"""Runs of equal bytes between two files, for what is no tensor: an index of anchors in the old file, looked up at every new byte.

Memory is bounded by the number of anchors, not by the files: the larger the old ranges, the farther apart their anchors.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from device_client.wire.tensor1.io import RandomAccess

_WINDOW: Final = 1 << 20
_ANCHOR_BYTES: Final = 16
_MIN_STEP: Final = 4
_MAX_ANCHORS: Final = 1 << 19
_FILTER_BITS: Final = 22
_MIN_MATCH: Final = 24
_FIRST_BYTES: Final = 256
_STEP_BYTES: Final = 1 << 16
_FIRST: Final = np.uint64(0x9E3779B97F4A7C15)
_SECOND: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_FOLD: Final = np.uint64(29)
_COMPARED: Final = 1 << 19


@dataclass(frozen=True, slots=True)
class Match:
    """`length` bytes that are the same at `new_offset` and `old_offset`."""

    new_offset: int
    old_offset: int
    length: int


def equal(old: RandomAccess, new: RandomAccess, old_offset: int, new_offset: int, length: int) -> bool:
    """Whether both files have the same bytes there."""
    return all(
        old.read_at(old_offset + start, min(_COMPARED, length - start))
        == new.read_at(new_offset + start, min(_COMPARED, length - start))
        for start in range(0, length, _COMPARED)
    )


def _hashes(content: bytes) -> NDArray[np.uint64]:
    """A hash of the sixteen bytes at every position that has as many."""
    count = len(content) - _ANCHOR_BYTES + 1
    words = np.empty(count + 8, dtype=np.uint64)
    for shift in range(8):
        lane = np.frombuffer(content, dtype="<u8", offset=shift, count=(len(content) - shift) // 8)
        room = len(words[shift::8])
        words[shift::8][: len(lane)] = lane[:room]
    return _mixed(words[:count], words[8 : count + 8])


def _word_hashes(content: bytes, step: int) -> NDArray[np.uint64]:
    """The same at every `step` words of eight bytes."""
    words = np.frombuffer(content, dtype="<u8", count=len(content) // 8)
    return _mixed(words[:-1:step], words[1::step])


def _mixed(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed: NDArray[np.uint64] = first * _FIRST
    mixed ^= second * _SECOND
    mixed ^= mixed >> _FOLD
    return mixed


class ByteIndex:
    """Anchors in ranges of the old file."""

    def __init__(self, old: RandomAccess, ranges: Sequence[tuple[int, int]]) -> None:
        self._old = old
        total = sum(length for _, length in ranges)
        # Far-apart anchors are whole words apart, so that only they are hashed.
        step = _MIN_STEP if total <= _MIN_STEP * _MAX_ANCHORS else -(-total // (8 * _MAX_ANCHORS)) * 8
        window = _WINDOW - _WINDOW % step
        hashes: list[NDArray[np.uint64]] = []
        offsets: list[NDArray[np.int64]] = []
        for offset, length in ranges:
            for start in range(0, length - _ANCHOR_BYTES + 1, window):
                content = old.read_at(offset + start, min(window + _ANCHOR_BYTES - 1, length - start))
                found = _hashes(content)[::step] if step == _MIN_STEP else _word_hashes(content, step // 8)
                hashes.append(found)
                offsets.append(offset + start + step * np.arange(len(found), dtype=np.int64))
        keys = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
        places = np.concatenate(offsets) if offsets else np.zeros(0, dtype=np.int64)
        self._keys, first = np.unique(keys, return_index=True)
        self._places = places[first]
        self._filter = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)
        self._filter[self._low(self._keys)] = True

    @staticmethod
    def _low(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (keys & np.uint64((1 << _FILTER_BITS) - 1)).astype(np.int64)

    def matches(self, new: RandomAccess, offset: int, length: int, limit: int) -> list[Match]:
        """Matches in order of the new bytes from `offset` on, at most `limit`; they do not overlap."""
        found: list[Match] = []
        done = offset
        end = offset + length
        for start in range(offset, end - _ANCHOR_BYTES + 1, _WINDOW):
            if start + _WINDOW <= done:
                continue
            content = new.read_at(start, min(_WINDOW + _ANCHOR_BYTES - 1, end - start))
            positions, places = self._candidates(content)
            slot = bisect_left(positions, done - start)
            while slot < len(positions):
                match = self._extended(new, start + positions[slot], places[slot], done, end)
                slot += 1
                if match.length >= _MIN_MATCH:
                    found.append(match)
                    done = match.new_offset + match.length
                    slot = bisect_left(positions, done - start, slot)
                    if len(found) == limit:
                        return found
        return found

    def _candidates(self, content: bytes) -> tuple[list[int], list[int]]:
        """Where anchors of the old file recur, and where they stand there."""
        if len(content) < _ANCHOR_BYTES or not len(self._keys):
            return [], []
        hashes = _hashes(content)
        positions = np.flatnonzero(self._filter[self._low(hashes)])
        slots = np.minimum(np.searchsorted(self._keys, hashes[positions]), len(self._keys) - 1)
        hits = self._keys[slots] == hashes[positions]
        return positions[hits].tolist(), self._places[slots[hits]].tolist()

    def _extended(self, new: RandomAccess, position: int, place: int, floor: int, end: int) -> Match:
        """The longest run of equal bytes around a candidate, from `floor` to `end` of the new file."""
        before = equal_behind((new, position), (self._old, place), position - floor)
        after = equal_ahead((new, position), (self._old, place), end - position)
        return Match(position - before, place - before, before + after)


@dataclass(slots=True)
class Search:
    """Matches for runs of the new file: first where the old bytes around a run suggest, then by an index of old ranges.

    The index is made when something is left to look up. `left` is how many matches may still be found by it.
    """

    old: RandomAccess
    new: RandomAccess
    ranges: Sequence[tuple[int, int]]
    left: int
    _index: ByteIndex | None = None

    def matches(self, offset: int, length: int, behind: int | None, ahead: int | None) -> list[Match]:
        """Matches in order of `length` new bytes: `behind` is where the old bytes before them end, `ahead` where those after begin."""
        first, last = offset, offset + length
        found: list[Match] = []
        tail: list[Match] = []
        if behind is not None:
            equal = equal_ahead((self.new, first), (self.old, behind), length)
            if equal >= _MIN_MATCH:
                found.append(Match(first, behind, equal))
                first += equal
        if ahead is not None:
            equal = equal_behind((self.new, last), (self.old, ahead), last - first)
            if equal >= _MIN_MATCH:
                tail.append(Match(last - equal, ahead - equal, equal))
                last -= equal
        if last - first >= _MIN_MATCH and self.left:
            if self._index is None:
                self._index = ByteIndex(self.old, self.ranges)
            between = self._index.matches(self.new, first, last - first, self.left)
            self.left -= len(between)
            found += between
        return found + tail


def equal_ahead(left: tuple[RandomAccess, int], right: tuple[RandomAccess, int], limit: int) -> int:
    """How many bytes from these places on are the same, `limit` at most."""
    limit = min(limit, left[0].size - left[1], right[0].size - right[1])
    done, step = 0, _FIRST_BYTES
    while done < limit:
        part = min(step, limit - done)
        equal = common_prefix(left[0].read_at(left[1] + done, part), right[0].read_at(right[1] + done, part))
        done, step = done + equal, _STEP_BYTES
        if equal < part:
            break
    return done


def equal_behind(left: tuple[RandomAccess, int], right: tuple[RandomAccess, int], limit: int) -> int:
    """How many bytes before these places are the same, `limit` at most."""
    limit = min(limit, left[1], right[1])
    done, step = 0, _FIRST_BYTES
    while done < limit:
        part = min(step, limit - done)
        here = done + part
        equal = _common_suffix(left[0].read_at(left[1] - here, part), right[0].read_at(right[1] - here, part))
        done, step = done + equal, _STEP_BYTES
        if equal < part:
            break
    return done


def common_prefix(left: bytes, right: bytes) -> int:
    """How many bytes are the same from the start; both are equally long."""
    if left == right:
        return len(left)
    return int(np.argmax(np.frombuffer(left, dtype=np.uint8) != np.frombuffer(right, dtype=np.uint8)))


def _common_suffix(left: bytes, right: bytes) -> int:
    if left == right:
        return len(left)
    return int(np.argmax(np.frombuffer(left, np.uint8)[::-1] != np.frombuffer(right, np.uint8)[::-1]))
