"""The whole of making a patch, in order: plan, prologue, blocks, and the smaller of that and the plain file.

Blocks are made by a few threads (numpy and pcodec release the interpreter's lock) and written in order; only a handful are
under way at once. It proves nothing: whoever publishes a patch first applies it with the device's own decoder.
"""

import hashlib
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final

import numpy as np

from device_client.wire.tensor1.allocation import keep_freed_memory
from device_client.wire.tensor1.blocks import cells, joined, old_bytes, runs_of
from device_client.wire.tensor1.elements import Element, integers, ordered
from device_client.wire.tensor1.format import (
    HEADER_BYTES,
    MAX_BLOCK_BYTES,
    MAX_BLOCK_RUNS,
    MAX_INSTRUCTIONS,
    MAX_NUMBERS,
    MAX_PROLOGUE_BYTES,
    MIN_BLOCK_BYTES,
    MIN_COLUMNS,
    Flag,
    Header,
    Instruction,
    Kind,
    Prologue,
    pack_header,
    pack_varint,
)
from device_client.wire.tensor1.io import RandomAccess
from device_client.wire.tensor1.pieces import Block, BlockRuns, Piece, blocks
from device_client.wire.tensor1.prologue import compress_prologue, pack_prologue
from device_client.wire.tensor1.residuals import Mode
from device_client.wire.tensor1.workers import in_order
from fleet.adapters.delta_tensor import residual_coding
from fleet.adapters.delta_tensor.planning import Plan, Planner, streams
from fleet.adapters.delta_tensor.residual_coding import Coding
from fleet.adapters.delta_tensor.stats import EncodeStats, TensorStats
from fleet.adapters.delta_tensor.streams import lzma_ratio, method_of, payloads
from fleet.adapters.delta_tensor.threads import THREADS
from fleet.domain.layouts import Layout

_HASHED: Final = 1 << 20
# The whole new file is tried as LZMA streams when that looks smaller than the patch, by this much at most.
_WHOLE_MARGIN: Final = 1.15
# Files that slow links and small devices take: less than 1 % larger, and a quarter of the work lost to a kill.
_SMALL_FILE_BYTES: Final = 8 << 20
_SMALL_BLOCK_BYTES: Final = 128 << 10
# With so many instructions, of at most 100 bytes each in practice, there is room for all literals too.
_MAX_SURE: Final = 1 << 14
# What is planned for of a file with more tensors than a patch may have instructions.
_FEWER_TENSORS: Final = MAX_INSTRUCTIONS // 4


def encode(
    old: RandomAccess,
    new: RandomAccess,
    old_layout: Layout,
    new_layout: Layout,
    out: BinaryIO,
    *,
    coding: Coding = Coding.PCODEC,
    block_bytes: int | None = None,
) -> EncodeStats:
    """Write to `out` (empty, seekable, readable) a patch that turns `old` into `new`, and say what it consists of.

    It is never larger than the new file by more than its header. `block_bytes` is what a device writes at once,
    and what a killed one has to fetch again at most; without it, it follows from the file's size.
    """
    if block_bytes is None:
        block_bytes = MAX_BLOCK_BYTES if new.size >= _SMALL_FILE_BYTES else _SMALL_BLOCK_BYTES
    keep_freed_memory()
    block_bytes = max(MIN_BLOCK_BYTES, min(block_bytes, MAX_BLOCK_BYTES))
    writing = _Writing(old, new, out, coding=coding, block_bytes=block_bytes)
    plan, layout = _planned(writing, old_layout, new_layout)
    size = writing.write(plan)
    if size > _probable(new):
        size = _smaller_of(writing, plan, size, _whole(new))
    if size > HEADER_BYTES + new.size:
        size = writing.write_verbatim()
        return EncodeStats(old.size, new.size, size, 0, verbatim=True, needs_pcodec=False)
    copied = sum(item.length for item in writing.plan.instructions if item.kind is Kind.COPY)
    return EncodeStats(
        old.size,
        new.size,
        size,
        copied,
        verbatim=False,
        needs_pcodec=writing.needs_pcodec,
        tensors=_tensors(writing.plan, writing.spent, layout),
        taken_as_bytes=len(new_layout.segments) - len(layout.segments),
    )


def _planned(writing: "_Writing", old_layout: Layout, new_layout: Layout) -> tuple[Plan, Layout]:
    """A plan that a patch has room for, and the new tensors that it knows of: all, or the largest ones, or none."""
    count = len(new_layout.segments)
    for layout in (new_layout, new_layout.largest(_FEWER_TENSORS)) if count > _FEWER_TENSORS else (new_layout,):
        plan = writing.planned(old_layout, layout)
        if _fits(plan):
            return _cut(writing, plan, old_layout, layout), layout
    return _whole(writing.new), new_layout.largest(0)


def _cut(writing: "_Writing", plan: Plan, old_layout: Layout, new_layout: Layout) -> Plan:
    """The plan, or one for smaller blocks where they would have too many runs."""
    while writing.block_bytes > MIN_BLOCK_BYTES and not _has_room(plan, writing.block_bytes):
        writing.block_bytes = max(MIN_BLOCK_BYTES, writing.block_bytes // 2)
        if not all(_is_cut_by(item, writing.block_bytes) for item in plan.instructions):
            plan = writing.planned(old_layout, new_layout)
    return plan


def _digest(file: RandomAccess) -> bytes:
    digest = hashlib.sha256()
    for start in range(0, file.size, _HASHED):
        digest.update(file.read_at(start, min(_HASHED, file.size - start)))
    return digest.digest()


def _probable(new: RandomAccess) -> float:
    """The size of patch above which the new file alone, compressed, might be smaller."""
    return lzma_ratio(new, 0, new.size, probes=8) * new.size / _WHOLE_MARGIN


def _smaller_of(writing: "_Writing", plan: Plan, size: int, whole: Plan) -> int:
    """Write the new file as streams, and go back to the first patch if that was smaller, or was the same."""
    if plan.instructions == whole.instructions:
        return size
    spent = writing.spent
    streamed = writing.write(whole)
    if streamed < size:
        return streamed
    rewritten = writing.write(plan)
    writing.spent = spent
    return rewritten


def _fits(plan: Plan) -> bool:
    """Whether a prologue may be as long as the plan's. Few plans are long enough for that to be in doubt."""
    count = len(plan.instructions)
    if sum(item.numbers for item in plan.instructions) > MAX_NUMBERS:
        return False
    return count <= _MAX_SURE or (count <= MAX_INSTRUCTIONS and len(_prologue(plan)) <= MAX_PROLOGUE_BYTES)


def _is_cut_by(item: Instruction, block_bytes: int) -> bool:
    """Whether blocks of this size are large enough for what the instruction makes together."""
    return item.old_rows * item.record_bytes * MIN_COLUMNS <= block_bytes


def _has_room(plan: Plan, block_bytes: int) -> bool:
    """Whether blocks of this size have few enough runs; the smallest ones do."""
    runs = BlockRuns(block_bytes)
    for item in plan.instructions:
        runs.add(item)
    return runs.most <= MAX_BLOCK_RUNS


def _prologue(plan: Plan) -> bytes:
    return pack_prologue(Prologue(plan.instructions, plan.literals))


def _whole(new: RandomAccess) -> Plan:
    """The new file as streams."""
    return Plan(tuple(streams(new.size, method_of(new, 0, new.size))))


def _tensors(plan: Plan, spent: dict[int, int], layout: Layout) -> tuple[TensorStats, ...]:
    """What each tensor took; those of one instruction share its bytes by their lengths."""
    sizes = dict.fromkeys(plan.unchanged, 0)
    predictors = dict.fromkeys(plan.unchanged, Kind.COPY.name.lower())
    for number, tensors in plan.tensors.items():
        item = plan.instructions[number]
        word = item.predictor.name if item.kind is Kind.DELTA else item.kind.name
        lengths = [layout.segments[tensor].length for tensor in tensors]
        total = sum(lengths)
        for tensor, length in zip(tensors, lengths, strict=True):
            sizes[tensor] = sizes.get(tensor, 0) + spent.get(number, 0) * length // total
            predictors.setdefault(tensor, word.lower())
    return tuple(
        TensorStats(segment.name, segment.dtype, segment.elements, segment.length, predictors[number], sizes[number])
        for number, segment in enumerate(layout.segments)
        if number in predictors
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """A block's payload, its checksum, and how many bytes each instruction took."""

    payload: bytes
    checksum: int
    spent: tuple[tuple[int, int], ...]
    used_pcodec: bool


class _Writing:
    """Writes plans to one output, from its beginning each time, in blocks of `block_bytes`."""

    def __init__(
        self,
        old: RandomAccess,
        new: RandomAccess,
        out: BinaryIO,
        *,
        coding: Coding,
        block_bytes: int,
    ) -> None:
        self._old = old
        self.new = new
        self._out = out
        self._coding = coding
        self.block_bytes = block_bytes
        # The digests are in the header, which is written last: they are made beside everything else.
        pool = ThreadPoolExecutor(1)
        self._digests = (pool.submit(_digest, old), pool.submit(_digest, new))
        pool.shutdown(wait=False)
        self.plan = Plan(())
        self.spent: dict[int, int] = {}
        self.needs_pcodec = False

    def planned(self, old_layout: Layout, new_layout: Layout) -> Plan:
        """What may be written."""
        return Planner(self._old, self.new, old_layout, new_layout, self._coding, self.block_bytes).plan()

    def write(self, plan: Plan) -> int:
        """The patch that follows from a plan; returns its size."""
        self.plan, self.spent, self.needs_pcodec = plan, {}, False
        raw = _prologue(plan)
        prologue, prologue_flag = compress_prologue(raw)
        self._out.seek(HEADER_BYTES)
        self._out.write(prologue)
        stream: Iterator[bytes] = iter(())
        entered = -1
        for block, made in self._blocks():
            number, item = block.pieces[0].number, block.pieces[0].item
            if item.is_heavy and number != entered:
                entered = number
                self._enter(number)
                if item.kind is Kind.STREAM:
                    step = self.block_bytes
                    lengths = [min(step, item.length - start) for start in range(0, item.length, step)]
                    stream = payloads(self.new, block.offset, iter(lengths), item.length, item.scalars[0])
            if item.kind is Kind.STREAM:
                payload = next(stream)
                made = _Made(payload, made.checksum, ((number, len(payload)),), used_pcodec=False)  # noqa: PLW2901
            self._record(made)
        size = self._out.tell()
        self._out.truncate(size)
        flags = prologue_flag | (Flag.NEEDS_PCODEC if self.needs_pcodec else Flag(0))
        self._head(flags, plan.reach_back, len(prologue), len(raw), zlib.crc32(prologue))
        return size

    def write_verbatim(self) -> int:
        """The header and the new file."""
        self._out.seek(HEADER_BYTES)
        for start in range(0, self.new.size, _HASHED):
            self._out.write(self.new.read_at(start, min(_HASHED, self.new.size - start)))
        size = self._out.tell()
        self._out.truncate(size)
        self._head(Flag.VERBATIM, 0, 0, 0, 0)
        return size

    def _head(self, flags: Flag, reach_back: int, packed: int, raw: int, checksum: int) -> None:
        header = Header(
            flags,
            self.block_bytes,
            self._old.size,
            self._digests[0].result(),
            self.new.size,
            self._digests[1].result(),
            reach_back,
            packed,
            raw,
            checksum,
        )
        self._out.seek(0)
        self._out.write(pack_header(header))
        self._out.seek(0, 2)

    def _enter(self, number: int) -> None:
        packed = self.plan.records.get(number)
        if packed is not None:
            self._out.write(pack_varint(len(packed)) + packed)
            self.spent[number] = self.spent.get(number, 0) + len(packed)

    def _record(self, made: _Made) -> None:
        self._out.write(pack_varint(len(made.payload)) + made.checksum.to_bytes(4, "little") + made.payload)
        self.needs_pcodec = self.needs_pcodec or made.used_pcodec
        for number, size in made.spent:
            self.spent[number] = self.spent.get(number, 0) + size

    def _blocks(self) -> Iterator[tuple[Block, _Made]]:
        """Every block with what was made of it, in order."""
        work = ((block, partial(self._made, block)) for block in blocks(self.plan.instructions, self.block_bytes))
        with ThreadPoolExecutor(THREADS) as pool:
            yield from in_order(work, pool)

    def _made(self, block: Block) -> _Made:
        content = self.new.read_at(block.offset, block.length)
        checksum = zlib.crc32(content)
        number, item = block.pieces[0].number, block.pieces[0].item
        if item.kind is Kind.STREAM:
            return _Made(b"", checksum, (), used_pcodec=False)
        parameters = self.plan.parameters.get(number, b"") if item.is_heavy else b""
        olds = old_bytes(block, self._old.read_at)
        payload = bytearray()
        spent: list[tuple[int, int]] = []
        used = False
        for runs in runs_of(block, parameters, olds).values():
            element = runs[0][1].element
            parts = [np.ascontiguousarray(cells(content, offset, run)).reshape(-1) for offset, run in runs]
            values = ordered(
                integers(np.concatenate(parts).data if len(parts) > 1 else parts[0].data, element), element
            )
            guess = joined(runs)
            differences = values if guess is None else values - guess
            shape = self._shape(runs[0][1].piece, element) if len(runs) == 1 else None
            packed = residual_coding.encode(differences, element, guess, self._coding, shape=shape)
            used = used or packed[0] == Mode.PCODEC
            payload += packed
            total = sum(run.count for _, run in runs)
            spent += [(run.piece.number, len(packed) * run.count // total) for _, run in runs]
        return _Made(bytes(payload), checksum, tuple(spent), used)

    def _shape(self, piece: Piece, element: Element) -> tuple[int, int] | None:
        """(columns, phase) of a piece of a plain matrix."""
        columns = self.plan.columns.get(piece.number, 0)
        return (columns, piece.start // element.width % columns) if columns else None
