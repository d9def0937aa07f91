"""Floats that become blocks of ggml: the packer against the loops of the reference, number by number, and patches that cost nothing."""

import math
import struct
from collections.abc import Callable

import numpy as np
import pytest

from device_client.wire.errors import MalformedPatchError
from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.format import Field, Flag, Header, Instruction, Kind, Predictor
from device_client.wire.tensor1.packing import FIELDS, Packing, pack
from tests.delta.pairs import files
from tests.delta.patches import applied, forged, make, weights

F32 = np.float32


def _half(value: np.float32) -> bytes:
    return np.float16(value).tobytes()


def _inverse(scale: np.float32) -> np.float32:
    return F32(1) / scale if scale else F32(0)


def _nibbles(levels: list[int]) -> bytes:
    return bytes(low & 15 | (high & 15) << 4 for low, high in zip(levels[:16], levels[16:], strict=True))


def _high(levels: list[int]) -> bytes:
    return struct.pack("<I", sum((level >> 4) << place for place, level in enumerate(levels)))


def _around_zero(row: np.ndarray, half: int) -> tuple[np.float32, list[int]]:
    greatest, extreme = F32(0), F32(0)
    for value in row:
        if greatest < abs(value):
            greatest, extreme = abs(value), value
    scale = extreme / F32(-half)
    inverse = _inverse(scale)
    return scale, [min(2 * half - 1, int(value * inverse + F32(half + 0.5))) for value in row]


def _from_minimum(row: np.ndarray, highest: int) -> tuple[np.float32, np.float32, list[int]]:
    lowest, greatest = min(row), max(row)
    scale = (greatest - lowest) / F32(highest)
    inverse = _inverse(scale)
    return scale, lowest, [min(highest, int((value - lowest) * inverse + F32(0.5))) for value in row]


def _q8_0(row: np.ndarray) -> bytes:
    scale = max(abs(value) for value in row) / F32(127)
    inverse = _inverse(scale)
    scaled = [value * inverse for value in row]
    return _half(scale) + struct.pack("<32b", *(int(math.copysign(math.floor(abs(x) + 0.5), x)) for x in scaled))


def _q4_0(row: np.ndarray) -> bytes:
    scale, levels = _around_zero(row, 8)
    return _half(scale) + _nibbles(levels)


def _q5_0(row: np.ndarray) -> bytes:
    scale, levels = _around_zero(row, 16)
    return _half(scale) + _high(levels) + _nibbles(levels)


def _q4_1(row: np.ndarray) -> bytes:
    scale, lowest, levels = _from_minimum(row, 15)
    return _half(scale) + _half(lowest) + _nibbles(levels)


def _q5_1(row: np.ndarray) -> bytes:
    scale, lowest, levels = _from_minimum(row, 31)
    return _half(scale) + _half(lowest) + _high(levels) + _nibbles(levels)


REFERENCE: dict[Packing, Callable[[np.ndarray], bytes]] = {
    Packing.Q4_0: _q4_0,
    Packing.Q4_1: _q4_1,
    Packing.Q5_0: _q5_0,
    Packing.Q5_1: _q5_1,
    Packing.Q8_0: _q8_0,
}


def _rows() -> np.ndarray:
    rows: np.ndarray = weights(4, 130, 32) * np.exp(weights(5, 130, 1))
    rows[3] = 0
    rows[4] = 1.5
    rows[5, :4] = (2, -2, 2, -2)
    return rows


@pytest.mark.parametrize("kind", list(Packing))
def test_pack__rows_of_floats__the_bytes_of_the_reference(kind: Packing) -> None:
    made = pack(kind, _rows())
    joined = np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in made], axis=1)
    assert joined.tobytes() == b"".join(REFERENCE[kind](row) for row in _rows())
    assert joined.shape[1] == sum(field.length for field in FIELDS[kind])


def _gguf(array: np.ndarray, kind: int, content: bytes) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"w"
    head += struct.pack("<IQQIQ", 2, array.shape[1], array.shape[0], kind, 0)
    return head + bytes(-len(head) % 32) + content


@pytest.mark.parametrize("source", ["f4", "f2"])
@pytest.mark.parametrize("kind", list(Packing))
def test_floats_packed_into_blocks__of_every_kind__follow_from_the_floats(kind: Packing, source: str) -> None:
    array = (weights(6, 24, 96) * F32(0.1)).astype(source)
    old = _gguf(array, {"f4": 0, "f2": 1}[source], array.tobytes())
    rows = array.astype("f4").reshape(-1, 32)
    new = _gguf(array, kind, b"".join(REFERENCE[kind](row) for row in rows))
    patch, stats = make(old, new, block_bytes=4096)
    assert applied(old, patch) == new
    assert [item.predictor for item in stats.tensors] == ["pack"]
    assert len(patch) < 240


def test_floats_packed_into_blocks__by_another_formula__still_exact() -> None:
    array = weights(6, 64, 96)
    old, new = files.safetensors({"w": array}), files.gguf({"w": array * F32(1.7)}, "q8_0")
    assert applied(old, make(old, new)[0]) == new
    array[3] = np.nan
    array[4, 5] = np.inf
    with np.errstate(all="ignore"):
        new = files.gguf({"w": array}, "q4_0")
    assert applied(files.safetensors({"w": array}), make(files.safetensors({"w": array}), new)[0]) == new


@pytest.mark.parametrize(
    "item",
    [
        Instruction(Kind.DELTA, 68, 0, Predictor.PACK, FIELDS[Packing.Q8_0], Element.F32, (9,)),
        Instruction(Kind.DELTA, 68, 0, Predictor.PACK, FIELDS[Packing.Q8_0], Element.F32),
        Instruction(Kind.DELTA, 68, 0, Predictor.PACK, FIELDS[Packing.Q8_0], Element.I8, (8,)),
        Instruction(Kind.DELTA, 68, 0, Predictor.PACK, (Field(Element.U8, 34),), Element.F32, (8,)),
        Instruction(Kind.DELTA, 68, 4096 - 200, Predictor.PACK, FIELDS[Packing.Q8_0], Element.F32, (8,)),
    ],
)
def test_patch__packs_what_it_cannot__is_refused(item: Instruction) -> None:
    header = Header(Flag(0), 4096, 4096, bytes(32), 68, bytes(32), 0)
    with pytest.raises(MalformedPatchError):
        applied(bytes(4096), forged(header, [item]))
