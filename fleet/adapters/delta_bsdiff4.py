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
from typing import Final

import bsdiff4

from device_client.wire.errors import MalformedPatchError, OversizedError
from device_client.wire.tensor1.io import RandomAccess
from fleet.domain.delta_sizes import BSDIFF4_MAX_BYTES
from fleet.ports.delta_encoder import DeltaTooExpensiveError

# Where a second codec is tried for its size alone, all of making a patch stays below 256 MiB: libraries take 60 of them.
_TRIED_MEMORY_BYTES: Final = 184 << 20
_SORT_FACTOR: Final = 17
_HEADER: Final = struct.Struct("<8sqqq")
_CONTROL: Final = struct.Struct("<QQQ")
_MAGIC: Final = b"BSDIFF40"
_SIGN: Final = 1 << 63
# bsdiff begins a step where it has found a match that is more than eight bytes better than the last one went on.
_MIN_STEP_BYTES: Final = 8
_MORE_STEPS: Final = 2
_PIECE_BYTES: Final = 1 << 18
_READ_BYTES: Final = 1 << 16


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
    if magic != _MAGIC or min(lengths) < 0 or _HEADER.size + lengths[0] + lengths[1] > patch.size:
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
    made = place = 0
    for add, copy, seek in _steps(controls, header.new_bytes):
        if made + add + copy > header.new_bytes:
            raise MalformedPatchError(f"expected {header.new_bytes} bytes of output, got a patch that makes more")
        if add and not 0 <= place <= old.size - add:
            raise MalformedPatchError(f"expected {add} old bytes at {place}, got an old file of {old.size}")
        for start in range(0, add, _PIECE_BYTES):
            size = min(_PIECE_BYTES, add - start)
            base = np.frombuffer(old.read_at(place + start, size), np.uint8)
            write((base + np.frombuffer(differences.take(size), np.uint8)).tobytes())
        for start in range(0, copy, _PIECE_BYTES):
            write(extra.take(min(_PIECE_BYTES, copy - start)))
        made += add + copy
        place += add + seek


def _steps(controls: "_Inflated", new_bytes: int) -> Iterator[tuple[int, int, int]]:
    """(bytes to add differences to, bytes to copy, by how much the old file's place moves), until all is made."""
    made = 0
    most = new_bytes // _MIN_STEP_BYTES + _MORE_STEPS
    for _ in range(most):
        if made >= new_bytes:
            return
        add, copy, seek = (_signed(word) for word in _CONTROL.unpack(controls.take(_CONTROL.size)))
        if min(add, copy) < 0:
            raise MalformedPatchError(f"expected lengths in a bsdiff4 patch, got {add} and {copy}")
        made += add + copy
        yield add, copy, seek
    if made < new_bytes:
        raise MalformedPatchError(f"expected at most {most} steps in a bsdiff4 patch for {new_bytes} bytes, got more")


def _signed(word: int) -> int:
    """The sign is a bit of its own."""
    return _SIGN - word if word & _SIGN else word


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
