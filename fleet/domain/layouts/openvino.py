"""OpenVINO IR: the XML says where its constants lie in the binary file, which says nothing of itself."""

from fleet.domain.formats import Format
from fleet.domain.inspection import openvino
from fleet.domain.inspection.files import ByteSource
from fleet.domain.layouts.layout import Dtype, Layout, Segment


def read_binary(size: int, description: ByteSource) -> Layout:
    """The layout of a binary file of `size` bytes; raises what inspecting the description raises."""
    constants = openvino.constants(description)
    segments = (
        Segment(item.offset, item.size, dtype, item.shape, item.name)
        for item in constants
        if (dtype := Dtype.named(item.dtype)) is not None
    )
    return Layout.of(size, Format.OPENVINO.value, segments)
