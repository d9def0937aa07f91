"""Turns an old file and a patch into the new file, one block at a time.

`decode` is a generator: after each yielded `Checkpoint`, the blocks before it have been handed to the writer. Whoever
drives it decides when those are safe on disk and when to note the checkpoint; given back, decoding goes on from there.
A block is written only after its checksum fits. Memory is bounded by the format's limits, whatever the patch says.

It opens no file and keeps no journal. It does not decide whether to trust the patch, and it does not prove the whole:
`apply` does, and a driver that resumes compares the finished file's sha256 with the header's.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from device_client.wire.tensor1.blocks import decode_block, old_bytes
from device_client.wire.tensor1.derivations import correct, derive
from device_client.wire.tensor1.elements import Content
from device_client.wire.tensor1.errors import (
    BlockMismatchError,
    OutputMismatchError,
    PatchHeaderError,
    PatchLimitError,
    PatchTableError,
    TruncatedPatchError,
    WrongBaseError,
)
from device_client.wire.tensor1.format import (
    HEADER_BYTES,
    MAX_PARAMETER_BYTES,
    PAYLOAD_SLACK,
    Cursor,
    Flag,
    Header,
    Instruction,
    Kind,
    Prologue,
    parse_header,
    unpack_parameters,
)
from device_client.wire.tensor1.io import BlockWriter, RandomAccess
from device_client.wire.tensor1.pieces import Block, blocks
from device_client.wire.tensor1.prologue import parse_prologue
from device_client.wire.tensor1.streams import STORED, StreamReader
from device_client.wire.tensor1.workers import Workers, in_order

_MAX_VARINT_BYTES: Final = 10
_HASHED_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where decoding stands between two blocks. Small integers only: a journal can hold it in a line.

    `block` is the next block, `output_offset` how much output there is, `patch_offset` where that block's record starts, and
    `heavy_offset` where the records of a heavy instruction that is under way start: its parameters or its stream are read
    again from there, `heavy_bytes` of them. Both are 0 when nothing is.
    """

    block: int
    output_offset: int
    patch_offset: int
    heavy_offset: int = 0
    heavy_bytes: int = 0


def read_header(patch: RandomAccess) -> Header:
    """The patch's header: lengths, digests and what it needs."""
    return parse_header(patch.read_at(0, HEADER_BYTES))


def read_prologue(patch: RandomAccess, header: Header) -> Prologue:
    """The instructions, each checked to be one that can be followed."""
    end = HEADER_BYTES + header.prologue_bytes
    places = range(HEADER_BYTES, end, _READ_BYTES)
    return parse_prologue(header, (_exactly(patch, place, min(_READ_BYTES, end - place)) for place in places))


def decode(
    patch: RandomAccess,
    old: RandomAccess,
    write: BlockWriter,
    *,
    start: Checkpoint | None = None,
    workers: Workers | None = None,
) -> Iterator[Checkpoint]:
    """Hand every block from `start` on to `write`, yielding where decoding stands after each.

    Raises a `MalformedPatchError` (each kind has its own code) as soon as something does not fit; nothing of that block
    has been written then.
    """
    header = read_header(patch)
    if old.size != header.old_bytes:
        raise WrongBaseError(f"expected an old file of {header.old_bytes} bytes, got {old.size}")
    if Flag.VERBATIM in header.flags:
        yield from _copied(patch, header, write, start)
        return
    for (offset, checkpoint), content in in_order(_Decoding(patch, old, header, start).blocks(), workers):
        write(offset, content)
        yield checkpoint


def apply(patch: RandomAccess, old: RandomAccess, write: BlockWriter, *, workers: Workers | None = None) -> Header:
    """Decode all of `patch`; raises `OutputMismatchError` at the end if the whole is not the announced file.

    With `workers`, blocks are decoded beside each other; `old` is read by all of them then. `write` is called in order by the
    caller's own thread all the same.
    """
    header = read_header(patch)
    digest = hashlib.sha256()

    def hashed(offset: int, content: bytes | bytearray) -> None:
        digest.update(content)
        write(offset, content)

    for _ in decode(patch, old, hashed, workers=workers):
        pass
    if digest.digest() != header.new_sha256:
        raise OutputMismatchError(f"expected sha256 {header.new_sha256.hex()}, got {digest.hexdigest()}")
    return header


def check_base(header: Header, old: RandomAccess) -> None:
    """Read all of `old` and raise `WrongBaseError` unless the patch was made for it."""
    digest = hashlib.sha256()
    if old.size == header.old_bytes:
        for offset in range(0, old.size, _HASHED_BYTES):
            digest.update(old.read_at(offset, min(_HASHED_BYTES, old.size - offset)))
    if old.size != header.old_bytes or digest.digest() != header.old_sha256:
        raise WrongBaseError(
            f"expected {header.old_bytes} bytes with sha256 {header.old_sha256.hex()}, got {old.size} other ones"
        )


def _checked(output: bytes | bytearray, checksum: int, index: int) -> bytes | bytearray:
    if zlib.crc32(output) != checksum:
        raise BlockMismatchError(f"expected block {index} with checksum {checksum:08x}, got other bytes")
    return output


def _is_stored(item: Instruction) -> bool:
    return item.kind is Kind.STREAM and item.scalars[0] == STORED


def _exactly(source: RandomAccess, offset: int, length: int) -> bytes:
    content = source.read_at(offset, length)
    if len(content) != length:
        raise TruncatedPatchError(f"expected {length} bytes of the patch at {offset}, got {len(content)}")
    return content


def _copied(patch: RandomAccess, header: Header, write: BlockWriter, start: Checkpoint | None) -> Iterator[Checkpoint]:
    offset = start.output_offset if start else 0
    while offset < header.new_bytes:
        length = min(header.block_bytes, header.new_bytes - offset)
        write(offset, _exactly(patch, HEADER_BYTES + offset, length))
        offset += length
        yield Checkpoint(-(-offset // header.block_bytes), offset, HEADER_BYTES + offset)
    if patch.size != HEADER_BYTES + header.new_bytes:
        raise PatchHeaderError(f"expected a patch of {HEADER_BYTES + header.new_bytes} bytes, got {patch.size}")


# Where a block goes and where decoding stands after it; and what makes it.
_Step = tuple[tuple[int, Checkpoint], Callable[[], bytes | bytearray]]


class _Decoding:
    """One pass over a patch with blocks: where it is in the patch, and what the current heavy instruction has loaded."""

    def __init__(self, patch: RandomAccess, old: RandomAccess, header: Header, start: Checkpoint | None) -> None:
        self._patch = patch
        self._old = old
        self._header = header
        self._prologue = read_prologue(patch, header)
        self._position = HEADER_BYTES + header.prologue_bytes
        self._start = start
        self._heavy_offset = self._heavy_end = 0
        self._parameters: Content = b""
        self._stream: StreamReader | None = None

    def blocks(self) -> Iterator[_Step]:
        """Every block from the start on. Each is read when it is asked for, and made by whoever calls for it."""
        first = self._start.block if self._start else 0
        for block in blocks(self._prologue.instructions, self._header.block_bytes):
            if block.index < first:
                continue
            item = block.pieces[0].item
            if self._start is not None and block.index == first:
                self._resume(self._start, block, item)
            elif item.is_heavy and not block.pieces[0].start:
                self._enter(item)
            make = self._read_block(block, item)
            if block.pieces[-1].start + block.pieces[-1].length == item.length:
                self._heavy_offset = self._heavy_end = 0
            heavy_bytes = self._heavy_end - self._heavy_offset
            checkpoint = Checkpoint(
                block.index + 1, block.offset + block.length, self._position, self._heavy_offset, heavy_bytes
            )
            yield (block.offset, checkpoint), make
        if self._start is not None and self._start.output_offset == self._header.new_bytes:
            # Nothing was left to do.
            self._position = self._start.patch_offset
        if self._position != self._patch.size:
            raise PatchHeaderError(f"expected a patch of {self._position} bytes, got {self._patch.size}")

    def _enter(self, item: Instruction) -> None:
        """Read what a heavy instruction needs before its first block."""
        self._heavy_offset = 0 if _is_stored(item) else self._position
        self._stream = StreamReader(item.scalars[0]) if item.kind is Kind.STREAM else None
        self._parameters = b""
        if item.parameter_bytes:
            self._parameters = self._read_parameters(item)
        self._heavy_end = self._position if self._heavy_offset else 0

    def _read_parameters(self, item: Instruction) -> Content:
        """What the record has, or what is derived from the old file and the differences that the record has."""
        length = self._varint(MAX_PARAMETER_BYTES + PAYLOAD_SLACK)
        chunks = (self._take(min(_READ_BYTES, length - start)) for start in range(0, length, _READ_BYTES))
        written = unpack_parameters(chunks, item.parameter_bytes) if length else None
        if item.derivation is None:
            return bytes(item.parameter_bytes) if written is None else written
        derived = derive(item.derivation, item.scalars[1], item.parameter_bytes, self._read_old)
        if written is not None:
            correct(derived, written)
        return derived

    def _resume(self, start: Checkpoint, block: Block, item: Instruction) -> None:
        if block.offset != start.output_offset or not HEADER_BYTES <= start.patch_offset <= self._patch.size:
            raise PatchTableError(f"expected a checkpoint of this patch, got {start}")
        if not item.is_heavy or not block.pieces[0].start or _is_stored(item):
            self._position = start.patch_offset
            if item.is_heavy:
                self._enter(item)
            return
        if not self._position <= start.heavy_offset <= start.patch_offset:
            raise PatchTableError(f"expected a checkpoint of this patch, got {start}")
        self._position = start.heavy_offset
        self._enter(item)
        while self._stream is not None and self._position < start.patch_offset:
            # A stream has one state through all its blocks: those before the checkpoint are read again, not written.
            _, payload = self._record(self._header.block_bytes)
            self._stream.read(payload, self._header.block_bytes)
            self._heavy_end = self._position
        self._position = start.patch_offset

    def _read_block(self, block: Block, item: Instruction) -> Callable[[], bytes | bytearray]:
        """Read a block's record; what is left to do follows from that, the old file and the parameters as they are now."""
        checksum, payload = self._record(block.length)
        if item.kind is Kind.STREAM and self._stream is not None:
            # A stream has one state through all its blocks.
            output = self._stream.read(payload, block.length)
            if self._heavy_offset:
                self._heavy_end = self._position
                if self._heavy_end - self._heavy_offset > item.length + item.length // 16 + PAYLOAD_SLACK:
                    raise PatchLimitError(f"expected a stream for {item.length} bytes of output, got more payload")
            return partial(_checked, output, checksum, block.index)
        parameters = self._parameters if item.is_heavy else b""
        return partial(self._made, block, parameters, payload, checksum)

    def _made(self, block: Block, parameters: Content, payload: bytes, checksum: int) -> bytes | bytearray:
        olds = old_bytes(block, self._read_old)
        output = decode_block(
            block, parameters=parameters, literals=self._prologue.literals, olds=olds, payload=payload
        )
        return _checked(output, checksum, block.index)

    def _record(self, output_bytes: int) -> tuple[int, bytes]:
        length = self._varint(None)
        if length > output_bytes + PAYLOAD_SLACK:
            raise PatchLimitError(f"expected a payload for {output_bytes} bytes of output, got {length}")
        checksum = int.from_bytes(self._take(4), "little")
        return checksum, self._take(length)

    def _read_old(self, offset: int, length: int) -> bytes:
        content = self._old.read_at(offset, length)
        if len(content) != length:
            raise WrongBaseError(f"expected {length} old bytes at {offset}, got {len(content)}")
        return content

    def _varint(self, limit: int | None) -> int:
        window = self._patch.read_at(self._position, _MAX_VARINT_BYTES)
        cursor = Cursor(window, TruncatedPatchError)
        value = cursor.varint()
        if limit is not None and value > limit:
            raise PatchLimitError(f"expected at most {limit} bytes at {self._position}, got {value}")
        self._position += cursor.position
        return value

    def _take(self, length: int) -> bytes:
        content = _exactly(self._patch, self._position, length)
        self._position += length
        return content
