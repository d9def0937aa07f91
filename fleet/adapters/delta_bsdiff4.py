"""Patches by bsdiff: made by its library, applied here in fixed memory, whatever a patch says of itself.

The suffix sort that makes one needs about 17 times the size of the old file, so the size it may be used for is bounded. The
library applies a patch by inflating all of it, and a few kilobytes can inflate to gigabytes; `patched` inflates as much as
it writes next. Devices, where time is short, use the library in a child process with limits.
"""

import bz2
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import bsdiff4

from device_client.wire.errors import MalformedPatchError, OversizedError
from device_client.wire.tensor1.io import RandomAccess
from fleet.domain.delta_sizes import BSDIFF4_MAX_BYTES
from fleet.ports.delta_encoder import DeltaTooExpensiveError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Where a second codec is tried for its size alone, all of making a patch stays below 256 MiB: libraries take 60 of them.
_TRIED_MEMORY_BYTES: Final = 184 << 20
_SORT_FACTOR: Final = 17
_HEADER: Final = struct.Struct("<8sqqq")
_CONTROL_BYTES: Final = 24
_MAGIC: Final = b"BSDIFF40"
_SIGN: Final = 1 << 63
# bsdiff begins a step where it has found a match that is more than eight bytes better than the last one went on.
_MIN_STEP_BYTES: Final = 8
_MORE_STEPS: Final = 2
_PIECE_BYTES: Final = 1 << 18
_READ_BYTES: Final = 1 << 16
# Small steps are taken together: a patch of 3 kB may have four million.
_STEPS: Final = 2048
_SPAN_BYTES: Final = 1 << 20
# Farther than any file goes, and added up as often as there are steps in a group still a number of 64 bits.
_FAR: Final = 1 << 50


def is_tried(old_bytes: int, new_bytes: int) -> bool:
    """Whether trying this codec beside another is cheap for files of these sizes."""
    return _SORT_FACTOR * old_bytes + new_bytes <= _TRIED_MEMORY_BYTES


def diff(old: Path, new: Path) -> bytes:
    """A patch from `old` to `new`; raises DeltaTooExpensiveError before it reads what is too large, and OSError."""
    largest = max(old.stat().st_size, new.stat().st_size)
    if largest > BSDIFF4_MAX_BYTES:
        raise DeltaTooExpensiveError(f"expected files of at most {BSDIFF4_MAX_BYTES} bytes for bsdiff4, got {largest}")
    return bytes(bsdiff4.diff(old.read_bytes(), new.read_bytes()))


@dataclass(frozen=True, slots=True)
class Header:
    """Lengths of the parts, and of what the patch says that it makes."""

    control_bytes: int
    difference_bytes: int
    new_bytes: int


def read_header(patch: RandomAccess) -> Header:
    """The patch's header; raises MalformedPatchError where it is none, or its parts do not fit the patch, and OversizedError."""
    content = patch.read_at(0, _HEADER.size)
    if len(content) < _HEADER.size:
        raise MalformedPatchError(f"expected a patch with a header of {_HEADER.size} bytes, got {len(content)}")
    magic, *lengths = _HEADER.unpack(content)
    if magic != _MAGIC:
        raise MalformedPatchError(f"expected a patch of tensor1 or bsdiff4, got a file that begins with {magic!r}")
    if min(lengths) < 0 or _HEADER.size + lengths[0] + lengths[1] > patch.size:
        raise MalformedPatchError(f"expected a bsdiff4 header with lengths inside the patch, got {content.hex()}")
    if lengths[2] > BSDIFF4_MAX_BYTES:
        raise OversizedError(
            f"expected a bsdiff4 patch that makes at most {BSDIFF4_MAX_BYTES} bytes, got one that announces {lengths[2]}"
        )
    return Header(*lengths)


def patched(old: RandomAccess, patch: RandomAccess, patch_bytes: int, write: Callable[[bytes], object]) -> None:
    """Write the new file, piece by piece, of the first `patch_bytes` of a patch.

    Raises MalformedPatchError as soon as something does not fit; what was written by then must be discarded.
    """
    import numpy as np  # Here, because `delta_tensor.threads` must come before it.

    header = read_header(patch)
    differences_at = _HEADER.size + header.control_bytes
    extra_at = differences_at + header.difference_bytes
    controls = _Inflated(patch, _HEADER.size, differences_at)
    differences = _Inflated(patch, differences_at, extra_at)
    extra = _Inflated(patch, extra_at, patch_bytes)
    place = 0
    for steps in _steps(controls, header.new_bytes):
        adds, copies = steps[:, 0], steps[:, 1]
        ends = place + np.cumsum(adds + steps[:, 2])
        places = np.concatenate(([place], ends[:-1]))
        place = max(-_FAR, min(int(ends[-1]), _FAR))
        outside = (adds > 0) & ((places < 0) | (places > old.size - adds))
        if outside.any():
            at = int(outside.argmax())
            raise MalformedPatchError(f"expected {adds[at]} old bytes at {places[at]}, got an old file of {old.size}")
        if len(steps) > 1:
            base = _gathered(old, places, adds)
            made = np.empty(int((adds + copies).sum()), np.uint8)
            is_added = np.repeat(np.tile([True, False], len(steps)), steps[:, :2].reshape(-1))
            made[is_added] = base + np.frombuffer(differences.take(len(base)), np.uint8)
            made[~is_added] = np.frombuffer(extra.take(len(made) - len(base)), np.uint8)
            write(made.tobytes())
            continue
        add, copy = int(adds[0]), int(copies[0])
        for start in range(0, add, _PIECE_BYTES):
            size = min(_PIECE_BYTES, add - start)
            base = np.frombuffer(old.read_at(int(places[0]) + start, size), np.uint8)
            write((base + np.frombuffer(differences.take(size), np.uint8)).tobytes())
        for start in range(0, copy, _PIECE_BYTES):
            write(extra.take(min(_PIECE_BYTES, copy - start)))


def _gathered(old: RandomAccess, places: "NDArray[np.int64]", counts: "NDArray[np.int64]") -> "NDArray[np.uint8]":
    """So many bytes at each place, which are inside; a piece in all. Neighbours are read at once: a patch may have millions."""
    import numpy as np

    places, counts = places[counts > 0], counts[counts > 0]
    first, last = (int(places.min()), int((places + counts).max())) if len(places) else (0, 0)
    if last - first > _SPAN_BYTES:
        parts = zip(places.tolist(), counts.tolist(), strict=True)
        return np.frombuffer(b"".join(old.read_at(place, count) for place, count in parts), np.uint8)
    span = np.frombuffer(old.read_at(first, last - first), np.uint8)
    index = np.repeat(places - first - (np.cumsum(counts) - counts), counts)
    return span[index + np.arange(len(index))]


def _steps(controls: "_Inflated", new_bytes: int) -> "Iterator[NDArray[np.int64]]":
    """Until all is made: rows of (bytes to add differences to, bytes to copy, by how much the old file's place moves).

    One row, or as many as make a piece at most together.
    """
    import numpy as np

    made, left = 0, new_bytes // _MIN_STEP_BYTES + _MORE_STEPS
    while made < new_bytes:
        if not left:
            raise MalformedPatchError(f"expected fewer steps in a bsdiff4 patch for {new_bytes} bytes, got more")
        words = np.frombuffer(controls.some(_CONTROL_BYTES, min(left, _STEPS)), "<u8").reshape(-1, 3)
        left -= len(words)
        # The sign is a bit of its own; what is larger than any file is as wrong when it is a little less so.
        sizes = np.minimum(words & np.uint64(_SIGN - 1), np.uint64(_FAR)).astype(np.int64)
        steps = np.where(words & np.uint64(_SIGN), -sizes, sizes)
        ends = made + np.cumsum(np.maximum(steps[:, :2], 0).sum(axis=1))
        steps = steps[: int(np.searchsorted(ends, new_bytes)) + 1]
        if (steps[:, :2] < 0).any():
            at = int((steps[:, :2] < 0).any(axis=1).argmax())
            raise MalformedPatchError(f"expected lengths in a bsdiff4 patch, got {steps[at, 0]} and {steps[at, 1]}")
        if ends[len(steps) - 1] > new_bytes:
            raise MalformedPatchError(f"expected {new_bytes} bytes of output, got a patch that makes more")
        start = 0
        while start < len(steps):
            stop = max(start + 1, int(np.searchsorted(ends[: len(steps)], made + _PIECE_BYTES, side="right")))
            yield steps[start:stop]
            start, made = stop, int(ends[stop - 1])


class _Inflated:
    """What a part of the patch holds, inflated only as far as it is asked for."""

    def __init__(self, patch: RandomAccess, start: int, end: int) -> None:
        self._patch, self._at, self._end = patch, start, end
        self._unpacker = bz2.BZ2Decompressor()
        self._held, self._taken = b"", 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes, at most a piece."""
        while len(self._held) - self._taken < count:
            self._held, self._taken = self._held[self._taken :] + self._more(), 0
        self._taken += count
        return self._held[self._taken - count : self._taken]

    def some(self, unit: int, most: int) -> bytes:
        """The next units of so many bytes: one at least, as many as are at hand, and no more than `most`."""
        while len(self._held) - self._taken < unit:
            self._held, self._taken = self._held[self._taken :] + self._more(), 0
        return self.take(unit * min(most, (len(self._held) - self._taken) // unit))

    def _more(self) -> bytes:
        content = b""
        if self._unpacker.needs_input:
            content = self._patch.read_at(self._at, min(_READ_BYTES, self._end - self._at))
            self._at += len(content)
            if not content:
                raise MalformedPatchError("expected a whole bsdiff4 patch, got one that ends early")
        try:
            return self._unpacker.decompress(content, max_length=_READ_BYTES)
        except (OSError, EOFError, ValueError) as error:
            raise MalformedPatchError(f"expected bzip2 in a bsdiff4 patch, got {error}") from error
