"""How far the application of one patch is: a line of fixed length per block, appended, for one patch and no other.

A mark is written after its block was handed to the output, without a sync: a kill loses none of them. A power cut may lose
or tear them, and may lose output that they speak of, so each carries the checksum of its block; what a mark with
`synced` speaks of, and all before it, is on disk.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_client.adapters.patching.files import File
from device_client.wire.tensor1 import Checkpoint

NAME: Final = "journal"
_HEAD: Final = struct.Struct("<8s32sI")
_MARK: Final = struct.Struct("<QQQQIIII")
_MAGIC: Final = b"mfpatch1"


@dataclass(frozen=True)
class Mark:
    """A checkpoint. `output_crc` is of the block that it follows; `kept_crc` of the patch bytes that are kept aside for
    the heavy instruction that is under way.
    """

    point: Checkpoint
    output_crc: int = 0
    kept_crc: int = 0
    synced: bool = False

    def pack(self) -> bytes:
        """Its line."""
        point = self.point
        numbers = (point.block, point.output_offset, point.patch_offset, point.heavy_offset)
        body = _MARK.pack(*numbers, self.output_crc, self.kept_crc, point.heavy_bytes << 1 | self.synced, 0)[:-4]
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def parse(cls, line: bytes) -> "Mark | None":
        """Inverse of `pack`; None if it is torn."""
        if len(line) != _MARK.size or zlib.crc32(line[:-4]) != int.from_bytes(line[-4:], "little"):
            return None
        block, output, patch, heavy, output_crc, kept_crc, last, _ = _MARK.unpack(line)
        return cls(Checkpoint(block, output, patch, heavy, last >> 1), output_crc, kept_crc, bool(last & 1))


class PatchJournal:
    """The journal of the patch with this sha256; what another patch left is dropped."""

    def __init__(self, file: File, patch_sha256: bytes) -> None:
        body = _HEAD.pack(_MAGIC, patch_sha256, 0)[:-4]
        self._file = file
        self._head = body + zlib.crc32(body).to_bytes(4, "little")
        before, self._marks = _tail(file, self._head)
        self._count = before + len(self._marks)
        self._before = before
        if file.read_at(0, _HEAD.size) != self._head:
            file.truncate(0)
            file.write_at(0, self._head)

    @property
    def marks(self) -> Sequence[Mark]:
        """Those found when it was opened, from the last synced one on."""
        return self._marks

    def reserve(self, count: int) -> None:
        """Make sure that `count` marks in all find room; raises `OSError`. A head that a power cut tore would cost that room."""
        self._file.sync()
        self._file.reserve(_HEAD.size + count * _MARK.size)

    def add(self, mark: Mark) -> None:
        """Append."""
        self._file.write_at(_HEAD.size + self._count * _MARK.size, mark.pack())
        self._count += 1

    def cut(self, count: int) -> None:
        """Forget all but the first `count` of `marks`; with none of them, everything."""
        self._count = self._before + count if count else 0
        self._file.truncate(_HEAD.size + self._count * _MARK.size)

    def sync(self) -> None:
        """Make it durable."""
        self._file.sync()


def _tail(file: File, head: bytes) -> tuple[int, list[Mark]]:
    """The marks from the last synced one up to the first that is torn or does not follow, and how many come before."""
    if file.read_at(0, _HEAD.size) != head:
        return 0, []
    before = 0
    marks: list[Mark] = []
    offset = _HEAD.size
    while lines := file.read_at(offset, _MARK.size * 1_024):
        offset += len(lines)
        for start in range(0, len(lines), _MARK.size):
            mark = Mark.parse(lines[start : start + _MARK.size])
            last = marks[-1].point if marks else Checkpoint(0, 0, 0)
            if mark is None or mark.point.block < last.block or mark.point.output_offset < last.output_offset:
                return before, marks
            if mark.synced:
                before += len(marks)
                marks.clear()
            marks.append(mark)
    return before, marks


def patch_bytes_taken(work: Path) -> int:
    """How much of a patch has been used up, by the last mark of the journal in `work`; 0 if there is none."""
    try:
        with (work / NAME).open("rb") as file:
            size = file.seek(0, 2)
            whole = (size - _HEAD.size) // _MARK.size
            if whole < 1:
                return 0
            file.seek(_HEAD.size + (whole - 1) * _MARK.size)
            mark = Mark.parse(file.read(_MARK.size))
    except OSError:
        return 0
    return 0 if mark is None else mark.point.patch_offset
