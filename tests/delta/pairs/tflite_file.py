"""Weights as a TFLite file, written from the schema: matrices as int8 with a scale for each row, vectors as float32."""

from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np

_FLOAT32, _INT8 = 0, 9
_VERSION = 3


def tflite_int8(weights: Mapping[str, np.ndarray]) -> bytes:
    """One graph without operators, of all tensors in their order."""
    b = flatbuffers.Builder(1 << 20)
    contents = [_quantised(array) if array.ndim > 1 else (array, None) for array in weights.values()]
    buffers = [_table(b, 1, {})] + [
        _table(b, 1, {0: b.CreateNumpyVector(content.reshape(-1).view(np.uint8))}) for content, _ in contents
    ]
    tensors = [
        _tensor(b, name, array.shape, number, scales)
        for number, ((name, array), (_, scales)) in enumerate(zip(weights.items(), contents, strict=True), start=1)
    ]
    subgraph = _table(b, 5, {0: _offsets(b, tensors)})
    parts = {2: _offsets(b, [subgraph]), 4: _offsets(b, buffers)}
    b.StartObject(5)
    b.PrependUint32Slot(0, _VERSION, 0)
    for slot, place in parts.items():
        b.PrependUOffsetTRelativeSlot(slot, place, 0)
    b.Finish(b.EndObject(), file_identifier=b"TFL3")
    return bytes(b.Output())


def _quantised(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = (np.abs(array).max(axis=1) / np.float32(127)).astype(np.float32)
    scale[scale == 0] = 1
    return np.clip(np.rint(array / scale[:, None]), -127, 127).astype(np.int8), scale


def _tensor(b: flatbuffers.Builder, name: str, shape: Sequence[int], buffer: int, scales: np.ndarray | None) -> int:
    places = {0: b.CreateNumpyVector(np.array(shape, np.int32)), 3: b.CreateString(name)}
    if scales is not None:
        zeros = b.CreateNumpyVector(np.zeros(len(scales), np.int64))
        places[4] = _table(b, 7, {2: b.CreateNumpyVector(scales), 3: zeros})
    b.StartObject(8)
    for slot, place in places.items():
        b.PrependUOffsetTRelativeSlot(slot, place, 0)
    b.PrependInt8Slot(1, _FLOAT32 if scales is None else _INT8, 0)
    b.PrependUint32Slot(2, buffer, 0)
    return int(b.EndObject())


def _table(b: flatbuffers.Builder, slots: int, places: Mapping[int, int]) -> int:
    b.StartObject(slots)
    for slot, place in places.items():
        b.PrependUOffsetTRelativeSlot(slot, place, 0)
    return int(b.EndObject())


def _offsets(b: flatbuffers.Builder, places: Sequence[int]) -> int:
    b.StartVector(4, len(places), 4)
    for place in reversed(places):
        b.PrependUOffsetTRelative(place)
    return int(b.EndVector())
