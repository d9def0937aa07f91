"""Small real model files of every allowed format, and hostile ones. Built, not downloaded; nothing here is ever run."""

import io
import json
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping

import flatbuffers
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fleet.domain.inspection import ByteSource


def source(content: bytes) -> ByteSource:
    """The bytes as inspection reads them."""
    return ByteSource(len(content), lambda offset, size: content[offset : offset + size])


def onnx_model(
    *,
    dtype: type[np.generic] = np.float32,
    inputs: Mapping[str, tuple[int, list[int | str]]] | None = None,
    opset: int = 17,
    change: Callable[[onnx.ModelProto], None] | None = None,
) -> bytes:
    """`scores = image @ weights`: 64 in, 10 out."""
    weights = numpy_helper.from_array((np.arange(640).reshape(64, 10) % 7).astype(dtype), "weights")
    shape: list[int | str] = ["batch", 64]
    named = inputs or {"image": (TensorProto.FLOAT, shape)}
    values = [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in named.items()]
    cast = helper.make_node("Cast", ["weights"], ["w"], to=TensorProto.FLOAT)
    graph = helper.make_graph(
        [cast, helper.make_node("MatMul", [next(iter(named)), "w"], ["scores"])],
        "digits",
        values,
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, producer_name="test")
    if change is not None:
        change(model)
    return bytes(model.SerializeToString())


def with_external_data(model: onnx.ModelProto) -> None:
    """Weights in another file, as an attacker would point to /etc/passwd."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"


def with_external_data_in_subgraph(model: onnx.ModelProto) -> None:
    """The same, hidden in the branch of an If."""
    hidden = onnx.ModelProto()
    hidden.CopyFrom(model)
    with_external_data(hidden)
    node = helper.make_node("If", ["image"], ["x"], then_branch=hidden.graph, else_branch=hidden.graph)
    model.graph.node.append(node)


def with_custom_operator(model: onnx.ModelProto) -> None:
    """An operator that needs a shared library."""
    model.graph.node.append(helper.make_node("Exec", ["image"], ["y"], domain="com.attacker"))


def with_local_function(model: onnx.ModelProto) -> None:
    """An operator that the model defines itself out of standard ones."""
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("own", "Act", ["x"], ["y"], body, [helper.make_opsetid("", 17)]))
    model.graph.node.append(helper.make_node("Act", ["scores"], ["acted"], domain="own"))


def with_short_weights(model: onnx.ModelProto) -> None:
    """A tensor whose data is shorter than its shape says."""
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def safetensors(dtype: str = "F32", size: int = 4, *, header: Mapping[str, object] | None = None) -> bytes:
    """One tensor of 10 elements."""
    described = header or {"w": {"dtype": dtype, "shape": [10], "data_offsets": [0, 10 * size]}}
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text + bytes(10 * size)


def gguf(kind: int = 0, size: int = 4) -> bytes:
    """One key, one tensor of 32 elements."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    head += text("blk.0.w") + struct.pack("<IQIQ", 1, 32, kind, 0)
    head += bytes(-len(head) % 32)
    return head + bytes(32 * size)


def tflite(*, weights_type: int = 9, custom: str = "") -> bytes:
    """One fully connected layer: input float32 [1, 64], weights of 640 bytes."""
    b = flatbuffers.Builder(2_048)

    def integers(values: list[int]) -> int:
        b.StartVector(4, len(values), 4)
        for value in reversed(values):
            b.PrependInt32(value)
        return int(b.EndVector())

    def tables(places: list[int]) -> int:
        b.StartVector(4, len(places), 4)
        for place in reversed(places):
            b.PrependUOffsetTRelative(place)
        return int(b.EndVector())

    def tensor(name: str, kind: int, shape: list[int], buffer: int) -> int:
        label, dims = b.CreateString(name), integers(shape)
        b.StartObject(8)
        b.PrependUOffsetTRelativeSlot(0, dims, 0)
        b.PrependInt8Slot(1, kind, 0)
        b.PrependUint32Slot(2, buffer, 0)
        b.PrependUOffsetTRelativeSlot(3, label, 0)
        return int(b.EndObject())

    def buffer(content: bytes) -> int:
        data = b.CreateByteVector(content) if content else 0
        b.StartObject(3)
        if data:
            b.PrependUOffsetTRelativeSlot(0, data, 0)
        return int(b.EndObject())

    buffers = tables([buffer(b""), buffer(bytes(640))])
    tensors = tables(
        [tensor("image", 0, [1, 64], 0), tensor("w", weights_type, [10, 64], 1), tensor("out", 0, [1, 10], 0)]
    )
    ins, outs = integers([0]), integers([2])
    b.StartObject(5)
    b.PrependUOffsetTRelativeSlot(0, tensors, 0)
    b.PrependUOffsetTRelativeSlot(1, ins, 0)
    b.PrependUOffsetTRelativeSlot(2, outs, 0)
    subgraphs = tables([int(b.EndObject())])
    name = b.CreateString(custom) if custom else 0
    b.StartObject(4)
    b.PrependInt8Slot(0, 9, 0)
    if name:
        b.PrependUOffsetTRelativeSlot(1, name, 0)
    b.PrependInt32Slot(3, 32 if custom else 9, 0)
    codes = tables([int(b.EndObject())])
    b.StartObject(8)
    b.PrependUint32Slot(0, 3, 0)
    b.PrependUOffsetTRelativeSlot(1, codes, 0)
    b.PrependUOffsetTRelativeSlot(2, subgraphs, 0)
    b.PrependUOffsetTRelativeSlot(4, buffers, 0)
    b.Finish(b.EndObject(), file_identifier=b"TFL3")
    return bytes(b.Output())


def openvino() -> bytes:
    """One layer with constants."""
    return b"""<?xml version="1.0"?>
<net name="digits" version="11"><layers>
<layer id="0" name="image" type="Parameter"><data shape="1,64" element_type="f32"/></layer>
<layer id="1" name="w" type="Const"><data element_type="i8" shape="10,64" offset="0" size="640"/></layer>
</layers></net>"""


class _Calls:
    """Pickles into a call; it is never unpickled here."""

    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("owned",))


def hostile_pickle(protocol: int) -> bytes:
    """What would run code in whoever loads it."""
    return pickle.dumps(_Calls(), protocol)


def zipped(name: str, content: bytes) -> bytes:
    """A zip archive, as PyTorch writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def disguises() -> dict[str, bytes]:
    """Files that are no model, whatever they are called."""
    array = io.BytesIO()
    np.save(array, np.array([_Calls()], dtype=object), allow_pickle=True)
    return {
        **{f"pickle_{protocol}": hostile_pickle(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
        "pickle_optimised": pickletools.optimize(hostile_pickle(0)),
        "pickle_with_tail": hostile_pickle(0) + onnx_model(),
        "torch_zip": zipped("archive/data.pkl", hostile_pickle(2)),
        "keras_h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "numpy_objects": array.getvalue(),
        "gzip": b"\x1f\x8b\x08" + bytes(50),
        "joblib_zlib_in_zip_behind_onnx": onnx_model() + zipped("data.pkl", hostile_pickle(4)),
        "program": b"\x7fELF" + bytes(60),
        "script": b"#!/bin/sh\nreboot\n",
        "empty": b"",
        "nothing": bytes(4_096),
        "text": b"this is no model at all\n" * 20,
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
    }
