"""safetensors: every tensor is in the header."""

from fleet.domain.formats import Format
from fleet.domain.inspection import safetensors
from fleet.domain.inspection.files import ByteSource
from fleet.domain.layouts.layout import Dtype, Layout, Segment


def read(source: ByteSource) -> Layout:
    """The layout; raises MalformedFileError."""
    stored, _metadata = safetensors.read(source)
    segments = (Segment(item.offset, item.size, Dtype(item.dtype), item.shape, item.name) for item in stored)
    return Layout.of(source.length, Format.SAFETENSORS.value, segments)
