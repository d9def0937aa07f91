"""A patch applied to the old file itself, for devices without room for two: the old file is gone once this has begun.

    output       the old file, which becomes the new one from its front to its end
    redo         the blocks that are made but not yet in place, with checksums
    aside        old bytes that were overwritten and are still wanted: a ring as long as the patch reaches back
    journal      a mark per batch of blocks that is in place

Blocks are made into `redo`; once 8 MiB (or an eighth of a small file) or a second have come together, what they overwrite and
is still wanted goes aside, both are synced, and only then are they copied into place, which can be done again and again.
Before the old file is given up, the whole patch is decoded against it once for nothing, and room is reserved for every file
above, at the old file's own end if it is to grow: what fails, fails there. Nothing is given back before the end.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from device_client.adapters.patching import journal
from device_client.adapters.patching.files import File, Folder
from device_client.adapters.patching.journal import Mark, PatchJournal
from device_client.adapters.patching.staged import OUTPUT, SYNC_S, Expected
from device_client.adapters.patching.stream import PatchEndedError
from device_client.core.room import MAX_REACH_BYTES, SYNC_BYTES, batch_bytes
from device_client.wire.tensor1 import Checkpoint, Flag, Header, RandomAccess, apply, decode, read_header
from device_client.wire.tensor1.decoder import read_prologue
from device_client.wire.tensor1.errors import PatchTableError
from device_client.wire.tensor1.format import MAX_BLOCK_BYTES
from device_client.wire.tensor1.reach import reach_back

REDO: Final = "redo"
ASIDE: Final = "aside"
_RECORD: Final = struct.Struct("<4sQQQQQII")
_BLOCK: Final = b"blok"
_COMPLETE: Final = b"done"
_COPIED_BYTES: Final = 1 << 20
NOWHERE: Final = Checkpoint(0, 0, 0)


@dataclass(frozen=True)
class _Made:
    """A block in the redo file: its content lies at `position` and belongs before `point`."""

    point: Checkpoint
    position: int
    length: int


class _Redo:
    """One batch of blocks after another, each overwriting the last. `base` tells them apart: where the batch begins."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.end = 0
        self.made: list[_Made] = []

    def found(self, base: int) -> bool:
        """Take up the batch that begins at `base` as far as it is whole; returns whether it is complete."""
        self.begin()
        offset = base
        while True:
            head = self._file.read_at(self.end, _RECORD.size)
            if len(head) < _RECORD.size:
                return False
            kind, of, block, output, patch, heavy, length, checksum = _RECORD.unpack(head)
            if of != base or kind not in {_BLOCK, _COMPLETE} or length > MAX_BLOCK_BYTES:
                return False
            content = self._file.read_at(self.end + _RECORD.size, length)
            if len(content) != length or zlib.crc32(content, zlib.crc32(head[:-4])) != checksum:
                return False
            if kind == _COMPLETE:
                return True
            offset += length
            if output != offset:
                return False
            self._took(Checkpoint(block, output, patch, heavy), length)

    def begin(self) -> None:
        """An empty batch."""
        self.end = 0
        self.made = []

    def add(self, base: int, point: Checkpoint, content: bytes | bytearray) -> None:
        """A block that ends at `point`."""
        self._write(_BLOCK, base, point, content)
        self._took(point, len(content))

    def complete(self, base: int) -> None:
        """The batch is whole; durable when this returns."""
        self._write(_COMPLETE, base, self.made[-1].point, b"")
        self._file.sync()

    def _write(self, kind: bytes, base: int, point: Checkpoint, content: bytes | bytearray) -> None:
        numbers = (base, point.block, point.output_offset, point.patch_offset, point.heavy_offset, len(content))
        head = _RECORD.pack(kind, *numbers, 0)[:-4]
        checksum = zlib.crc32(content, zlib.crc32(head))
        self._file.write_at(self.end, head + checksum.to_bytes(4, "little"))
        self._file.write_at(self.end + _RECORD.size, content)

    def _took(self, point: Checkpoint, length: int) -> None:
        self.made.append(_Made(point, self.end + _RECORD.size, length))
        self.end += _RECORD.size + length

    def content(self, made: _Made) -> bytes:
        """A block's bytes."""
        return self._file.read_at(made.position, made.length)


class _Ring:
    """Old bytes behind the place of writing, as many as the patch reaches back."""

    def __init__(self, file: File, reach: int, batch: int) -> None:
        self._file = file
        self._reach = reach
        self._length = reach + batch

    def keep(self, target: File, base: int, end: int) -> None:
        """What `target` has in [base, end) is about to be overwritten; durable when this returns."""
        offset = max(base, end - self._reach)
        if offset >= end:
            return
        while offset < end:
            place = offset % self._length
            content = target.read_at(offset, min(end - offset, self._length - place, _COPIED_BYTES))
            if not content:
                break
            self._file.write_at(place, content)
            offset += len(content)
        self._file.sync()

    def read_at(self, offset: int, length: int, base: int) -> bytes:
        """Up to `length` old bytes at `offset`, all before `base`."""
        if base - offset > self._reach:
            raise PatchTableError(f"expected reads at most {self._reach} bytes back, got {base - offset}")
        place = offset % self._length
        return self._file.read_at(place, min(length, self._length - place))


class InPlaceApply:
    """One patch in one folder. `clock` gives seconds that never go back."""

    def __init__(
        self,
        folder: Folder,
        expected: Expected,
        patch: RandomAccess,
        clock: Callable[[], float],
        sync_bytes: int = SYNC_BYTES,
    ) -> None:
        self._folder = folder
        self._expected = expected
        self._patch = patch
        self._clock = clock
        self._header = read_header(patch)
        expected.check(self._header)
        # Of redo records; a batch has one block at least.
        self._batch_bytes = max(
            min(sync_bytes, batch_bytes(self._header.new_bytes)), _RECORD.size + self._header.block_bytes
        )
        self._reach = self._checked_reach(self._header)
        self._batch: _Batch | None = None

    def _checked_reach(self, header: Header) -> int:
        reach = 0 if Flag.VERBATIM in header.flags else reach_back(read_prologue(self._patch, header).instructions)
        if max(reach, header.reach_back) > MAX_REACH_BYTES:
            raise PatchTableError(
                f"expected a patch that reaches back at most {MAX_REACH_BYTES} bytes, got {max(reach, header.reach_back)}"
            )
        return reach

    @property
    def begun(self) -> bool:
        """Whether the old file has been given up already."""
        return OUTPUT in self._folder.names()

    def rehearse(self, old: File) -> None:
        """Before the old file is given up: decode all of the patch, and take the room that will be needed.

        Raises a `WireError` if this patch cannot be applied to this very file, `OSError` if there is no room.
        """
        blocks = 0

        def made(offset: int, content: bytes | bytearray) -> None:  # noqa: ARG001 - `BlockWriter`
            nonlocal blocks
            blocks += 1

        apply(self._patch, old, made)
        self._folder.open(REDO).reserve(self._batch_bytes + _RECORD.size)
        PatchJournal(self._folder.open(journal.NAME), self._expected.patch_sha256).reserve(blocks)
        if self._reach:
            self._folder.open(ASIDE).reserve(self._reach + self._batch_bytes)
        self._folder.sync()
        if self._header.new_bytes > self._header.old_bytes:
            try:
                old.reserve(self._header.new_bytes)
            except OSError:
                spare(old)
                raise

    def resume(self) -> Checkpoint:
        """Once the old file has been given up: end what a cut left half done, and say where it goes on."""
        return self._taken_up().start or NOWHERE

    def _taken_up(self) -> "_Batch":
        if self._batch is None:
            ring = _Ring(self._folder.open(ASIDE), self._reach, self._batch_bytes)
            self._batch = _Batch(self._folder, self._expected, ring, self._header.old_bytes)
        return self._batch

    def run(self, stopped: Callable[[], bool]) -> None:
        """Turn `output`, which holds the old file, into the new one; goes on where an earlier run was cut.

        Raises `PatchEndedError` between two blocks once `stopped` says so.
        """
        batch = self._taken_up()
        since = self._clock()
        pending: list[tuple[int, bytes | bytearray]] = []

        def take(offset: int, content: bytes | bytearray) -> None:
            pending.append((offset, content))

        for point in decode(self._patch, batch, take, start=batch.start):
            content = pending.pop()[1]
            if batch.redo_bytes + _RECORD.size + len(content) > self._batch_bytes or self._clock() - since >= SYNC_S:
                batch.put_in_place()
                since = self._clock()
            batch.add(point, content)
            if stopped():
                raise PatchEndedError("expected to finish, was stopped")
        batch.put_in_place()
        batch.end(self._header.new_bytes)


def spare(old: File) -> None:
    """Give back what was reserved for a file that is not given up after all."""
    old.truncate(old.size)


class _Batch:
    """Blocks on their way into place, and the old file as it was before them: `RandomAccess` over its bytes."""

    def __init__(self, folder: Folder, expected: Expected, ring: _Ring, old_bytes: int) -> None:
        self._target = folder.open(OUTPUT)
        self._old_bytes = old_bytes
        self._redo = _Redo(folder.open(REDO))
        self._ring = ring
        self._journal = PatchJournal(folder.open(journal.NAME), expected.patch_sha256)
        folder.sync()
        marks = [mark for mark in self._journal.marks if mark.synced]
        self._last = marks[-1].point if marks else NOWHERE
        if self._redo.found(self._base) and self._redo.made:
            self._copy()

    @property
    def _base(self) -> int:
        """Before this, the target is new; from here on it is old."""
        return self._last.output_offset

    @property
    def start(self) -> Checkpoint | None:
        """Where decoding goes on."""
        point = self._redo.made[-1].point if self._redo.made else self._last
        return None if point == NOWHERE else point

    @property
    def redo_bytes(self) -> int:
        """What was made and is not yet in place takes so many bytes on disk."""
        return self._redo.end

    @property
    def size(self) -> int:
        """Of the old file."""
        return self._old_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """Old bytes, wherever they are now."""
        return b"".join(self._parts(offset, min(offset + length, self._old_bytes)))

    def _parts(self, offset: int, end: int) -> Iterator[bytes]:
        while offset < end:
            if offset < self._base:
                part = self._ring.read_at(offset, min(end, self._base) - offset, self._base)
            else:
                part = self._target.read_at(offset, end - offset)
            if not part:
                return
            yield part
            offset += len(part)

    def add(self, point: Checkpoint, content: bytes | bytearray) -> None:
        """A block that ends at `point`."""
        self._redo.add(self._base, point, content)

    def put_in_place(self) -> None:
        """Everything that was made, at its place, and durable when this returns."""
        if self._redo.made:
            end = min(self._redo.made[-1].point.output_offset, self._old_bytes)
            self._ring.keep(self._target, self._base, end)
            self._redo.complete(self._base)
            self._copy()

    def end(self, new_bytes: int) -> None:
        """Everything is in place: cut off what the old file had more."""
        self._target.truncate(new_bytes)
        self._target.sync()

    def _copy(self) -> None:
        for made in self._redo.made:
            self._target.write_at(made.point.output_offset - made.length, self._redo.content(made))
        self._target.sync()
        self._last = self._redo.made[-1].point
        self._journal.add(Mark(self._last, synced=True))
        self._journal.sync()
        self._redo.begin()
