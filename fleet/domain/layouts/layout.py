"""What is known of the inside of a file of weights: where its tensors lie and what they are made of.

A layout is advice for making a small delta, never a claim that anything relies on: bytes outside every segment are
ordinary bytes, and a wrong layout costs size, not correctness. It holds by construction: segments lie inside the
file, do not overlap, come in the order of their offsets, and are as long as their elements.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import prod
from typing import Final, Protocol, Self

MAX_SEGMENTS: Final = 250_000


class RandomAccess(Protocol):
    """A file by offset. `read_at` returns exactly `length` bytes, all inside the file."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes: ...


class Dtype(StrEnum):
    """What an element is. All are little-endian; those below eight bits are packed, low bits first."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8E4M3FN = "float8e4m3fn"
    FLOAT8E4M3FNUZ = "float8e4m3fnuz"
    FLOAT8E5M2 = "float8e5m2"
    FLOAT8E5M2FNUZ = "float8e5m2fnuz"
    FLOAT8E8M0 = "float8e8m0"
    FLOAT6E2M3 = "float6e2m3"
    FLOAT6E3M2 = "float6e3m2"
    FLOAT4E2M1 = "float4e2m1"
    COMPLEX64 = "complex64"
    COMPLEX128 = "complex128"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    INT4 = "int4"
    INT2 = "int2"
    UINT64 = "uint64"
    UINT32 = "uint32"
    UINT16 = "uint16"
    UINT8 = "uint8"
    UINT4 = "uint4"
    UINT2 = "uint2"
    BOOL = "bool"
    # Elements live in blocks that hold scales beside them: see `Segment.blocks`.
    BLOCKS = "blocks"

    @property
    def bits(self) -> int:
        """Bits an element; for `BLOCKS`, of a unit of one byte."""
        return _BITS[self]

    @classmethod
    def named(cls, name: str) -> "Dtype | None":
        """The element type that a reader calls `name`; None for what is none, as strings are."""
        return _NAMED.get(name)


_BITS: Final[Mapping[Dtype, int]] = {
    Dtype.FLOAT64: 64,
    Dtype.FLOAT32: 32,
    Dtype.FLOAT16: 16,
    Dtype.BFLOAT16: 16,
    Dtype.FLOAT8E4M3FN: 8,
    Dtype.FLOAT8E4M3FNUZ: 8,
    Dtype.FLOAT8E5M2: 8,
    Dtype.FLOAT8E5M2FNUZ: 8,
    Dtype.FLOAT8E8M0: 8,
    Dtype.FLOAT6E2M3: 6,
    Dtype.FLOAT6E3M2: 6,
    Dtype.FLOAT4E2M1: 4,
    Dtype.COMPLEX64: 64,
    Dtype.COMPLEX128: 128,
    Dtype.INT64: 64,
    Dtype.INT32: 32,
    Dtype.INT16: 16,
    Dtype.INT8: 8,
    Dtype.INT4: 4,
    Dtype.INT2: 2,
    Dtype.UINT64: 64,
    Dtype.UINT32: 32,
    Dtype.UINT16: 16,
    Dtype.UINT8: 8,
    Dtype.UINT4: 4,
    Dtype.UINT2: 2,
    Dtype.BOOL: 8,
    Dtype.BLOCKS: 8,
}
_NAMED: Final[Mapping[str, Dtype]] = {item.value: item for item in Dtype if item is not Dtype.BLOCKS}


@dataclass(frozen=True, slots=True)
class BlockField:
    """A run of equal elements at a fixed place in every block."""

    name: str
    offset: int
    dtype: Dtype
    count: int

    @property
    def length(self) -> int:
        """Its bytes in a block."""
        return self.count * self.dtype.bits // 8


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How one block of a block-quantised tensor is built; its fields fill it without gaps."""

    name: str
    elements: int
    length: int
    fields: tuple[BlockField, ...]


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How integers stand for real numbers: `real = (integer - zero_point) * scale`.

    `scale_count` float32 scales lie at `scale_offset` of the same file; one for all, or one for each index of `axis`.
    No zero points means that all are 0.
    """

    scale_offset: int
    scale_count: int
    zero_points: tuple[int, ...] = ()
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A tensor's bytes: `length` of them at `offset`, row-major. Of block-quantised ones, rows of whole blocks.

    `shape` counts elements. `name` may be empty or shared by several.
    """

    offset: int
    length: int
    dtype: Dtype
    shape: tuple[int, ...]
    name: str
    blocks: BlockLayout | None = None
    quantisation: Quantisation | None = None

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.offset + self.length

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of one file. `format` is None for a file that is opaque, whose segments, if any, were guessed."""

    size: int
    format: str | None = None
    segments: tuple[Segment, ...] = ()
    # Small whole-number tensors that the format codes with variable length, by name: no segment can be made of them.
    integers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        size: int,
        format: str | None,  # noqa: A002 - the field's name
        found: Iterable[Segment],
        integers: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Self:
        """A layout of those of `found` that are sound: the first of overlapping ones, none outside the file."""
        segments: list[Segment] = []
        position = 0
        for segment in sorted(found, key=lambda item: item.offset):
            if segment.offset < position or segment.length <= 0 or segment.end > size or not _is_whole(segment):
                continue
            scales = segment.quantisation
            if scales is not None and scales.scale_offset + 4 * scales.scale_count > size:
                segment = replace(segment, quantisation=None)  # noqa: PLW2901 - the sound form of the same
            segments.append(segment)
            position = segment.end
        return cls(size, format, tuple(segments[:MAX_SEGMENTS]), integers or {})

    @property
    def covered_bytes(self) -> int:
        """How many of the file's bytes are of a known tensor."""
        return sum(segment.length for segment in self.segments)

    def largest(self, count: int) -> Self:
        """The same file with its `count` largest tensors; the others are bytes among the rest."""
        kept = sorted(self.segments, key=lambda segment: (-segment.length, segment.offset))[:count]
        return replace(self, segments=tuple(sorted(kept, key=lambda segment: segment.offset)))

    def gaps(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of the runs of bytes that belong to no segment."""
        position = 0
        for segment in self.segments:
            if segment.offset > position:
                yield position, segment.offset - position
            position = segment.end
        if position < self.size:
            yield position, self.size - position


def _is_whole(segment: Segment) -> bool:
    if segment.blocks is not None:
        blocks, rest = divmod(segment.elements, segment.blocks.elements)
        return not rest and blocks * segment.blocks.length == segment.length
    return (segment.elements * segment.dtype.bits + 7) // 8 == segment.length
