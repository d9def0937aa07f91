"""GGUF: every tensor is described in the header; quantised ones are rows of blocks."""

from dataclasses import replace
from itertools import pairwise

from fleet.domain.formats import Format
from fleet.domain.inspection import gguf
from fleet.domain.inspection.files import ByteSource, StoredTensor
from fleet.domain.layouts.blocks import BLOCKS
from fleet.domain.layouts.layout import Dtype, Layout, Segment


def read(source: ByteSource) -> Layout:
    """The layout; raises MalformedFileError."""
    stored, _metadata = gguf.read(source)
    return Layout.of(source.length, Format.GGUF.value, (_segment(item) for item in _sized(stored, source.length)))


def _sized(stored: list[StoredTensor], end: int) -> list[StoredTensor]:
    """A tensor of a type that is not known reaches to the next one: padding does no harm."""
    ordered = sorted(stored, key=lambda item: item.offset)
    places = [item.offset for item in ordered] + [end]
    return [
        item if item.size else replace(item, size=after - before)
        for item, (before, after) in zip(ordered, pairwise(places), strict=True)
    ]


def _segment(item: StoredTensor) -> Segment:
    if item.dtype in BLOCKS:
        return Segment(item.offset, item.size, Dtype.BLOCKS, item.shape, item.name, BLOCKS[item.dtype])
    dtype = Dtype.named(item.dtype)
    if dtype is not None:
        return Segment(item.offset, item.size, dtype, item.shape, item.name)
    return Segment(item.offset, item.size, Dtype.UINT8, (item.size,), item.name)
