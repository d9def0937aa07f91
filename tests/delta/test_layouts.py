"""Layouts: what lies where in files of every format, built by their own libraries or by their specifications."""

import json
import random
import struct
import time
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fleet.domain.layouts import Dtype, Layout, Segment, describe
from fleet.domain.layouts.blocks import BLOCKS
from tests.domain import model_files

DICE = np.random.default_rng(7)
WEIGHTS = DICE.normal(0, 0.05, (48, 64)).astype(np.float32)


@dataclass
class Memory:
    """A file in memory, which refuses to be read outside itself and counts what is read."""

    content: bytes
    read_bytes: int = 0

    @property
    def size(self) -> int:
        return len(self.content)

    def read_at(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(self.content)
        self.read_bytes += length
        return self.content[offset : offset + length]


def layout_of(content: bytes, description: bytes | None = None, name: str = "") -> Layout:
    return describe(Memory(content), name=name, description=None if description is None else Memory(description))


def named(layout: Layout, name: str) -> Segment:
    (found,) = [item for item in layout.segments if item.name == name]
    return found


def bytes_of(content: bytes, segment: Segment) -> bytes:
    return content[segment.offset : segment.end]


def onnx_file(tensors: list[onnx.TensorProto], nodes: list[onnx.NodeProto] | None = None) -> bytes:
    graph = helper.make_graph(
        nodes or [helper.make_node("Identity", [tensors[0].name], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return bytes(helper.make_model(graph, ir_version=9).SerializeToString())


def safetensors_file(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# ------------------------------------------------------------------------------------------ ONNX


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (WEIGHTS, Dtype.FLOAT32),
        (WEIGHTS.astype(np.float16), Dtype.FLOAT16),
        (WEIGHTS.astype(np.float64), Dtype.FLOAT64),
        ((WEIGHTS * 500).astype(np.int8), Dtype.INT8),
        ((WEIGHTS * 500 + 90).astype(np.uint8), Dtype.UINT8),
        ((WEIGHTS * 500).astype(np.int16), Dtype.INT16),
        (WEIGHTS > 0, Dtype.BOOL),
    ],
)
def test_onnx__raw_data__segment_holds_the_array(array: np.ndarray, dtype: Dtype) -> None:
    content = onnx_file([numpy_helper.from_array(array, "w")])
    segment = named(layout_of(content), "w")
    assert (segment.dtype, segment.shape) == (dtype, (48, 64))
    assert bytes_of(content, segment) == array.tobytes()


def test_onnx__typed_floats__segment_of_the_packed_field() -> None:
    content = onnx_file([helper.make_tensor("w", TensorProto.FLOAT, [48, 64], WEIGHTS.reshape(-1).tolist())])
    assert bytes_of(content, named(layout_of(content), "w")) == WEIGHTS.tobytes()


def test_onnx__typed_doubles__segment_of_the_packed_field() -> None:
    values = WEIGHTS.astype(np.float64)
    content = onnx_file([helper.make_tensor("w", TensorProto.DOUBLE, [48, 64], values.reshape(-1).tolist())])
    assert bytes_of(content, named(layout_of(content), "w")) == values.tobytes()


def test_onnx__typed_integers__values_instead_of_a_segment() -> None:
    content = onnx_file([helper.make_tensor("z", TensorProto.INT8, [3], [-1, 0, 127])])
    layout = layout_of(content)
    assert layout.segments == ()
    assert layout.integers == {"z": (-1, 0, 127)}


def test_onnx__weights_in_a_constant_node_and_a_branch__found() -> None:
    tensor = numpy_helper.from_array(WEIGHTS, "inner")
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["b"])],
        "b",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
        [tensor],
    )
    nameless = numpy_helper.from_array(WEIGHTS * 2)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=nameless),
        helper.make_node("If", ["cond"], ["y"], then_branch=branch, else_branch=branch),
    ]
    layout = layout_of(onnx_file([numpy_helper.from_array(np.array(True), "cond")], nodes))
    assert [item.name for item in layout.segments] == ["c", "inner", "inner", "cond"]


def test_onnx__dequantised_weights__scales_zero_points_and_axis_known() -> None:
    scales = np.linspace(0.01, 0.02, 48, dtype=np.float32)
    tensors = [
        numpy_helper.from_array((WEIGHTS * 500).astype(np.int8), "w_quantized"),
        numpy_helper.from_array(scales, "w_scale"),
        helper.make_tensor("w_zero", TensorProto.INT8, [48], [1] + [0] * 47),
    ]
    node = helper.make_node("DequantizeLinear", ["w_quantized", "w_scale", "w_zero"], ["y"], axis=0)
    content = onnx_file(tensors, [node])
    found = named(layout_of(content), "w_quantized").quantisation
    assert found is not None
    assert content[found.scale_offset :][: 4 * found.scale_count] == scales.tobytes()
    assert (found.scale_count, found.axis, found.zero_points) == (48, 0, (1, *[0] * 47))


def test_onnx__external_data__described_by_the_model_file() -> None:
    tensors = []
    for name, offset in (("a", 0), ("b", 16_384)):
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[48, 64])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", str(offset)), ("length", "12288")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        tensors.append(tensor)
    data = WEIGHTS.tobytes() + bytes(4_096) + (WEIGHTS * 3).tobytes()
    layout = layout_of(data, onnx_file(tensors), "weights.bin")
    assert [(item.name, item.offset, item.length) for item in layout.segments] == [("a", 0, 12288), ("b", 16384, 12288)]
    assert layout_of(onnx_file(tensors)).segments == ()


def test_onnx__custom_operators__still_understood() -> None:
    node = helper.make_node("Odd", ["w"], ["y"], domain="my.own")
    assert layout_of(onnx_file([numpy_helper.from_array(WEIGHTS, "w")], [node])).covered_bytes == WEIGHTS.nbytes


# ------------------------------------------------------------------------------------------ safetensors


@pytest.mark.parametrize(
    ("kind", "bits", "dtype"),
    [
        ("F64", 64, Dtype.FLOAT64),
        ("F32", 32, Dtype.FLOAT32),
        ("F16", 16, Dtype.FLOAT16),
        ("BF16", 16, Dtype.BFLOAT16),
        ("F8_E4M3", 8, Dtype.FLOAT8E4M3FN),
        ("F8_E5M2", 8, Dtype.FLOAT8E5M2),
        ("F8_E8M0", 8, Dtype.FLOAT8E8M0),
        ("F6_E2M3", 6, Dtype.FLOAT6E2M3),
        ("F4", 4, Dtype.FLOAT4E2M1),
        ("C64", 64, Dtype.COMPLEX64),
        ("I64", 64, Dtype.INT64),
        ("I32", 32, Dtype.INT32),
        ("I16", 16, Dtype.INT16),
        ("I8", 8, Dtype.INT8),
        ("U64", 64, Dtype.UINT64),
        ("U32", 32, Dtype.UINT32),
        ("U16", 16, Dtype.UINT16),
        ("U8", 8, Dtype.UINT8),
        ("BOOL", 8, Dtype.BOOL),
    ],
)
def test_safetensors__every_dtype__segments_fill_the_data(kind: str, bits: int, dtype: Dtype) -> None:
    one = bytes(range(16 * bits // 8))
    content = safetensors_file({"a": (kind, [4, 4], one), "b": (kind, [16], one)})
    layout = layout_of(content)
    assert [(item.name, item.dtype) for item in layout.segments] == [("a", dtype), ("b", dtype)]
    assert bytes_of(content, layout.segments[1]) == one
    assert layout.format == "safetensors"


# ------------------------------------------------------------------------------------------ GGUF


def test_gguf_blocks__every_type__fields_fill_the_block() -> None:
    for block in BLOCKS.values():
        position = 0
        for part in block.fields:
            assert part.offset == position, block.name
            position += part.length
        assert position == block.length, block.name


@pytest.mark.parametrize(
    ("kind", "size", "name"), [(2, 18, "q4_0"), (8, 34, "q8_0"), (20, 18, "iq4_nl"), (39, 17, "mxfp4")]
)
def test_gguf__quantised_tensor__rows_of_blocks(kind: int, size: int, name: str) -> None:
    content = model_files.gguf(kind, 1)[:-32] + bytes(size)
    (segment,) = layout_of(content).segments
    assert (segment.dtype, segment.length, segment.shape) == (Dtype.BLOCKS, size, (32,))
    assert segment.blocks is not None
    assert segment.blocks.name == name


def test_gguf__plain_tensor__its_dtype() -> None:
    (segment,) = layout_of(model_files.gguf()).segments
    assert (segment.dtype, segment.length, segment.name) == (Dtype.FLOAT32, 128, "blk.0.w")


def test_gguf__type_of_the_future__bytes_up_to_the_next_tensor() -> None:
    (segment,) = layout_of(model_files.gguf(kind=77)).segments
    assert (segment.dtype, segment.length) == (Dtype.UINT8, 128)


# ------------------------------------------------------------------------------------------ TFLite, OpenVINO


def test_tflite__buffer__segment() -> None:
    content = model_files.tflite()
    (segment,) = layout_of(content).segments
    assert (segment.name, segment.dtype, segment.shape, segment.length) == ("w", Dtype.INT8, (10, 64), 640)


def test_openvino__binary_file__described_by_the_xml() -> None:
    xml = (
        '<net name="n" version="11"><layers><layer id="0" name="w" type="Const">'
        '<data element_type="f32" shape="48, 64" offset="64" size="12288"/></layer></layers></net>'
    )
    content = bytes(64) + WEIGHTS.tobytes()
    layout = layout_of(content, xml.encode())
    assert [(item.name, item.offset, item.shape) for item in layout.segments] == [("w", 64, (48, 64))]


# ------------------------------------------------------------------------------------------ opaque files


@pytest.mark.parametrize(
    ("dtype", "shift"),
    [
        (Dtype.FLOAT32, 0),
        (Dtype.FLOAT32, 3),
        (Dtype.FLOAT16, 0),
        (Dtype.FLOAT16, 1),
        (Dtype.BFLOAT16, 0),
        (Dtype.FLOAT64, 5),
    ],
)
def test_opaque__array_of_weights__type_and_alignment_guessed(dtype: Dtype, shift: int) -> None:
    weights = DICE.normal(0, 0.05, 100_000)
    raw = {
        Dtype.FLOAT32: weights.astype(np.float32).tobytes(),
        Dtype.FLOAT16: weights.astype(np.float16).tobytes(),
        Dtype.BFLOAT16: (weights.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes(),
        Dtype.FLOAT64: weights.tobytes(),
    }[dtype]
    layout = layout_of(bytes(shift) + raw)
    assert layout.format is None
    assert {(item.dtype, (item.offset - shift) % (dtype.bits // 8)) for item in layout.segments} == {(dtype, 0)}
    assert layout.covered_bytes > 0.9 * len(raw)


@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(100_000), random.Random(1).randbytes(100_000), b"words " * 20_000]
)
def test_opaque__no_array__no_segments(content: bytes) -> None:
    assert layout_of(content).segments == ()


# ------------------------------------------------------------------------------------------ hostile files

GENUINE = [
    model_files.onnx_model(),
    model_files.safetensors(),
    model_files.gguf(),
    model_files.gguf(8, 2),
    model_files.tflite(),
    model_files.openvino(),
]


def require_sound(layout: Layout, size: int) -> None:
    position = 0
    for segment in layout.segments:
        assert segment.offset >= position
        assert segment.length > 0
        position = segment.end
        if segment.quantisation is not None:
            assert segment.quantisation.scale_offset + 4 * segment.quantisation.scale_count <= size
    assert position <= size
    assert layout.covered_bytes + sum(length for _offset, length in layout.gaps()) == size


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_describe__any_damage_to_a_genuine_file__a_sound_layout(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(GENUINE)))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    damaged = bytes(content[:cut] if data.draw(st.booleans()) else content)
    require_sound(layout_of(damaged), len(damaged))
    require_sound(layout_of(bytes(900), damaged, "w"), 900)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3_000), st.sampled_from([b"", b"GGUF\x03\x00\x00\x00", b"\x00\x00\x00\x00TFL3", b"<net "]))
@example(b"\xff" * 64, b"GGUF\x03\x00\x00\x00")
def test_describe__any_bytes__a_sound_layout(tail: bytes, head: bytes) -> None:
    content = head + tail
    require_sound(layout_of(content), len(content))
    require_sound(layout_of(content, content), len(content))


def test_describe__millions_of_empty_fields__given_up_in_bounded_time() -> None:
    content = b"\x08\x09" + b"\x3a\x00" + b"\x12\x00" * 6_000_000
    started = time.process_time()
    layout = layout_of(content)
    assert layout.format is None
    assert time.process_time() - started < 60


def test_describe__tensors_that_overlap__the_first_of_them() -> None:
    found = [
        Segment(0, 8, Dtype.FLOAT32, (2,), "a"),
        Segment(4, 8, Dtype.FLOAT32, (2,), "b"),
        Segment(8, 8, Dtype.FLOAT32, (3,), "c"),
        Segment(96, 8, Dtype.FLOAT32, (2,), "d"),
    ]
    layout = Layout.of(100, None, found)
    assert [item.name for item in layout.segments] == ["a"]
    assert list(layout.gaps()) == [(8, 92)]


def test_describe__large_tensors__only_headers_are_read() -> None:
    file = Memory(safetensors_file({"w": ("F32", [4_000_000], bytes(16_000_000))}))
    assert describe(file).covered_bytes == 16_000_000
    assert file.read_bytes < 200_000
