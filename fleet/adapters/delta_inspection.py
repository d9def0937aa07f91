"""What a patch on disk is made of, read from the patch alone: nothing is decoded, the old file is not needed.

Tensors that share a block are coded together; such a block's bytes are divided among them by their sizes.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_client.wire.delta import Codec
from device_client.wire.tensor1 import decoder
from device_client.wire.tensor1.errors import PatchLimitError, TruncatedPatchError
from device_client.wire.tensor1.format import (
    HEADER_BYTES,
    MAGIC,
    MAX_PARAMETER_BYTES,
    PAYLOAD_SLACK,
    Cursor,
    Flag,
    Header,
    Instruction,
    Kind,
)
from device_client.wire.tensor1.pieces import Block, blocks
from fleet.adapters.delta_bsdiff4 import read_header
from fleet.adapters.delta_files import PreadFile, layout_of
from fleet.domain.layouts import Segment

_CHECKSUM_BYTES: Final = 4
_LONGEST_VARINT: Final = 10


@dataclass(frozen=True)
class Part:
    """What one instruction makes, and what it costs."""

    name: str
    kind: str
    predictor: str
    dtype: str
    output_offset: int
    output_bytes: int
    elements: int
    patch_bytes: int
    # Small tensors that one instruction makes; `name` is the first one's.
    tensors: int = 1

    @property
    def bits_per_weight(self) -> float:
        """Patch bits for each element; for bytes that are no tensor, for each byte."""
        return 8 * self.patch_bytes / max(self.elements, 1)


@dataclass(frozen=True)
class Inspected:
    """A whole patch."""

    codec: Codec
    patch_bytes: int
    new_bytes: int
    old_bytes: int | None = None
    old_sha256: str = ""
    new_sha256: str = ""
    block_bytes: int = 0
    needs_pcodec: bool = False
    is_verbatim: bool = False
    header_bytes: int = 0
    parts: tuple[Part, ...] = ()


def inspect(patch: Path, model: Path | None = None) -> Inspected:
    """Look into a patch; `model` is the new file, whose tensors' names are used.

    Raises OSError, MalformedPatchError for a patch that has not all of its records or more than those, and ValueError where
    `model` is another file.
    """
    with PreadFile(patch) as file:
        if file.read_at(0, len(MAGIC)) != MAGIC:
            return Inspected(Codec.BSDIFF4, file.size, read_header(file).new_bytes)
        header = decoder.read_header(file)
        parts: tuple[Part, ...] = ()
        is_verbatim = Flag.VERBATIM in header.flags
        if is_verbatim:
            end = HEADER_BYTES + header.new_bytes
        else:
            instructions = decoder.read_prologue(file, header).instructions
            costs, end = _costs(file, instructions, header.block_bytes, HEADER_BYTES + header.prologue_bytes)
            parts = _parts(instructions, costs, _tensors(model, header) if model is not None else ())
        if end != file.size:
            raise TruncatedPatchError(f"expected a patch of {end} bytes, got one of {file.size}")
        return Inspected(
            Codec.TENSOR1,
            file.size,
            header.new_bytes,
            header.old_bytes,
            header.old_sha256.hex(),
            header.new_sha256.hex(),
            header.block_bytes,
            Flag.NEEDS_PCODEC in header.flags,
            is_verbatim,
            HEADER_BYTES + header.prologue_bytes,
            parts,
        )


def _tensors(model: Path, header: Header) -> tuple[Segment, ...]:
    """The tensors of the file that the patch makes; raises ValueError for another, whose names would be wrong ones."""
    with PreadFile(model) as file:
        digest = file.sha256()
    if digest != header.new_sha256:
        raise ValueError(f"{model}: sha256 {digest.hex()} instead of {header.new_sha256.hex()}, which the patch makes")
    return layout_of(model).segments


def _costs(
    file: PreadFile, instructions: Collection[Instruction], block_bytes: int, position: int
) -> tuple[list[float], int]:
    """Bytes of records by instruction, and where the last record ends."""
    costs = [0.0] * len(instructions)
    for block in blocks(instructions, block_bytes):
        first = block.pieces[0]
        item = first.item
        if item.parameter_bytes and not first.start:
            length, position = _varint(file, position, MAX_PARAMETER_BYTES + PAYLOAD_SLACK)
            costs[first.number] += length
            position += length
        length, position = _varint(file, position, block_bytes + PAYLOAD_SLACK)
        position += _CHECKSUM_BYTES + length
        if position > file.size:
            raise TruncatedPatchError(f"expected a record that ends at {position}, got a patch of {file.size} bytes")
        _divide(block, length + _CHECKSUM_BYTES, costs)
    return costs, position


def _divide(block: Block, length: int, costs: list[float]) -> None:
    coded = [piece for piece in block.pieces if piece.item.kind in {Kind.DELTA, Kind.STREAM}]
    total = sum(piece.length for piece in coded)
    for piece in coded:
        costs[piece.number] += length * piece.length / total


def _varint(file: PreadFile, position: int, limit: int) -> tuple[int, int]:
    cursor = Cursor(file.read_at(position, _LONGEST_VARINT), TruncatedPatchError)
    value = cursor.varint()
    if value > limit:
        raise PatchLimitError(f"expected a record of at most {limit} bytes at {position}, got {value}")
    return value, position + cursor.position


def _parts(
    instructions: Collection[Instruction], costs: list[float], segments: tuple[Segment, ...]
) -> tuple[Part, ...]:
    found: list[Part] = []
    offset = following = 0
    for item, cost in zip(instructions, costs, strict=True):
        while following < len(segments) and segments[following].end <= offset:
            following += 1
        after = following
        while after < len(segments) and segments[after].offset < offset + item.length:
            after += 1
        literal = item.length if item.kind is Kind.LITERAL else 0
        elements = item.length // item.record_bytes * sum(field.count for field in item.fields)
        found.append(
            Part(
                segments[following].name if after > following else "",
                item.kind.name.lower(),
                item.predictor.name.lower() if item.kind is Kind.DELTA else "",
                "+".join(field.element.name.lower() for field in item.fields),
                offset,
                item.length,
                elements or item.length,
                round(cost) or literal,
                max(1, after - following),
            )
        )
        offset += item.length
    return tuple(found)
