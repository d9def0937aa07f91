"""From floats to whole numbers of the same weights: what quantisers do is found out, and a patch holds next to nothing."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_client.wire.tensor1 import apply, derivations, read_header
from device_client.wire.tensor1.elements import Element, bits_of
from device_client.wire.tensor1.format import Derivation, Formula
from fleet.adapters.delta_tensor.scales import bits
from fleet.domain.layouts import describe
from tests.delta.pairs import files
from tests.delta.patches import Held, Written, applied, make, weights

F32 = np.float32
Quantiser = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _asymmetric(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = ((high.astype("f8") - low) / 255).astype("f4")
    return scale, np.rint(0 - low / scale.astype("f8")).astype(np.uint8)


# By rows: scales and zero points of a matrix, as ONNX Runtime, PyTorch and others make them.
QUANTISERS: dict[str, Quantiser] = {
    "full_range": lambda w: (abs(w).max(axis=1) / F32(127), np.zeros(len(w), np.int8)),
    "half_steps": lambda w: (abs(w).max(axis=1) / F32(127.5), np.zeros(len(w), np.int8)),
    "seven_bits": lambda w: (abs(w).max(axis=1) / F32(64), np.zeros(len(w), np.int8)),
    "unsigned": lambda w: (abs(w).max(axis=1) / F32(127.5), np.full(len(w), 128, np.uint8)),
    "with_a_margin": lambda w: (abs(w).max(axis=1) * F32(1.07) / F32(127), np.zeros(len(w), np.int8)),
    "asymmetric": lambda w: _asymmetric(w.min(axis=1), w.max(axis=1)),
    "whole_tensor": lambda w: (abs(w).max().reshape(1) / F32(127), np.zeros(1, np.int8)),
    "whole_tensor_asymmetric": lambda w: _asymmetric(w.min().reshape(1), w.max().reshape(1)),
}


def _quantised(array: np.ndarray, quantiser: Quantiser, axis: int) -> bytes:
    rows = array if axis == 0 else array.T
    scale, zero = quantiser(rows)
    limits = np.iinfo(zero.dtype)
    whole = np.clip(np.rint(rows / scale[:, None]) + zero[:, None], limits.min, limits.max).astype(zero.dtype)
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(whole if axis == 0 else whole.T), "w_quantized"),
        numpy_helper.from_array(scale, "w_scale"),
        numpy_helper.from_array(zero, "w_zero_point"),
    ]
    node = helper.make_node("DequantizeLinear", ["w_quantized", "w_scale", "w_zero_point"], ["w.out"], axis=axis)
    graph = helper.make_graph(
        [node], "model", [], [helper.make_tensor_value_info("w.out", TensorProto.FLOAT, None)], tensors
    )
    return bytes(helper.make_model(graph, ir_version=9).SerializeToString(deterministic=True))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", QUANTISERS)
def test_quantised__by_a_known_formula__scales_and_numbers_follow_from_the_floats(name: str, axis: int) -> None:
    array = weights(3, 300, 256)
    old, new = files.onnx_file({"w": array})[0], _quantised(array, QUANTISERS[name], axis)
    patch, stats = make(old, new, block_bytes=16_384)
    assert applied(old, patch) == new
    assert {item.predictor for item in stats.tensors if item.elements >= 256} <= {"scales", "quantise"}
    # A margin of 1.07 is found as a divisor, which rounds otherwise in some rows.
    assert len(patch) < (900 if name == "with_a_margin" else 700)


@pytest.mark.filterwarnings("error")
def test_quantised__scales_that_floats_overflow_by__no_warning() -> None:
    array = weights(3, 64, 64) * F32(1e30)
    old = files.onnx_file({"w": array})[0]
    with np.errstate(over="ignore"):
        new = _quantised(array, lambda w: (np.full(len(w), 1e-15, np.float32), np.zeros(len(w), np.int8)), 0)
    patch, _ = make(old, new)
    assert applied(old, patch) == new


@pytest.mark.parametrize("kind", ["f2", "bf16"])
def test_quantised__from_half_floats__follows_from_them(kind: str) -> None:
    half = weights(3, 300, 256).astype("f2") if kind == "f2" else files.bfloat16(weights(3, 300, 256))
    array = half.astype("f4") if kind == "f2" else (half.astype("u4") << 16).view("f4")
    patch, _ = make(files.safetensors({"w": half}), new := _quantised(array, QUANTISERS["full_range"], 0))
    assert applied(files.safetensors({"w": half}), patch) == new
    assert len(patch) < 700


def test_quantised__scales_of_no_formula__still_exact() -> None:
    array = weights(3, 300, 256)
    strange: Quantiser = lambda w: (abs(w).mean(axis=1) / F32(40), np.zeros(len(w), np.int8))  # noqa: E731
    old, new = files.onnx_file({"w": array})[0], _quantised(array, strange, 0)
    patch, _ = make(old, new)
    assert applied(old, patch) == new
    assert len(patch) < 0.05 * len(new)


def test_quantised__many_times_from_one_tensor__no_more_is_derived_than_a_device_reads() -> None:
    array = weights(3, 64, 64)
    old = files.onnx_file({"w": array})[0]
    layers = {f"w_q{'_q' * index}": array for index in range(12)}
    patch, stats = make(old, new := files.onnx_int8(layers))
    assert applied(old, patch) == new
    assert [item.predictor for item in stats.tensors if item.dtype == "int8" and item.elements > 64] == [
        "quantise"
    ] * 12


@pytest.mark.parametrize("quantiser", ["full_range", "asymmetric"])
def test_quantised__constant_empty_and_infinite_rows__still_exact(quantiser: str) -> None:
    array = weights(3, 300, 256)
    array[5] = 0
    array[6] = 3.5
    array[7, 9] = np.inf
    array[8, 3] = np.nan
    with np.errstate(all="ignore"):
        new = _quantised(array, QUANTISERS[quantiser], 0)
    old = files.onnx_file({"w": array})[0]
    assert applied(old, make(old, new)[0]) == new


@pytest.mark.parametrize(
    ("outer", "count", "inner"),
    [
        (1, 1, 5),
        (3, 4, 5),
        (1, 300_000, 1),
        (2, 3, 100_000),
        (2, 300_000, 1),
        (1, 2, 300_000),
        (700, 300, 1),
        (3, 2, 65_536),
    ],
)
@pytest.mark.parametrize("element", [Element.F32, Element.F16])
def test_ranges__any_shape__as_numpy_finds_them(outer: int, count: int, inner: int, element: Element) -> None:
    array = weights(outer + count + inner, outer, count, inner)
    raw = np.ascontiguousarray(bits_of(array.reshape(-1), element)).tobytes()
    array = array if element is Element.F32 else array.astype("f2").astype("f4")
    file = Held(b"xyz" + raw)
    item = Derivation(Formula.SYMMETRIC, 3, element, outer, inner, bits(127.0), bits(1.0), 0)
    lowest, highest = derivations.ranges(item, count, file.read_at)
    assert np.array_equal(lowest, np.minimum(array.min(axis=(0, 2)), 0))
    assert np.array_equal(highest, np.maximum(array.max(axis=(0, 2)), 0))
    assert max(length for _, length in file.reads) <= derivations.WINDOW_ELEMENTS * element.width
    assert sum(length for _, length in file.reads) == len(raw)


# ------------------------------------------------------------------------------------- the real quantiser


def _network() -> onnx.ModelProto:
    shapes = {"embed": (500, 64), "k": (48, 64, 3), "k.b": (48,), "up": (48, 192), "head": (192, 100), "head.b": (100,)}
    tensors = [
        numpy_helper.from_array(weights(seed, *shape) * F32(0.1), name)
        for seed, (name, shape) in enumerate(shapes.items())
    ]
    nodes = [
        helper.make_node("Gather", ["embed", "ids"], ["x"]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["t", "k", "k.b"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "up"], ["u"], name="up.matmul"),
        helper.make_node("Gemm", ["u", "head", "head.b"], ["out"], name="gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 20])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 100])],
        tensors,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def _variants(quantization: Any) -> Iterator[tuple[str, Callable[[Path, Path], None]]]:
    kinds = quantization.QuantType
    for per_channel, kind in ((True, kinds.QInt8), (False, kinds.QInt8), (False, kinds.QUInt8)):
        wanted = ["MatMul", "Conv", "Gather"]
        dynamic = partial(
            quantization.quantize_dynamic, per_channel=per_channel, weight_type=kind, op_types_to_quantize=wanted
        )
        yield f"dynamic {kind} {per_channel}", dynamic

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rows = iter([{"ids": np.arange(20).reshape(1, 20) * step} for step in (1, 7, 25)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._rows, None)

    for form, per_channel, symmetric in itertools.product(quantization.QuantFormat, (False, True), (False, True)):

        def static(old: Path, new: Path, **options: Any) -> None:
            quantization.quantize_static(old, new, Reader(), **options)

        options = {"quant_format": form, "per_channel": per_channel, "extra_options": {"WeightSymmetric": symmetric}}
        yield f"static {form} {per_channel} {symmetric}", partial(static, **options)


@pytest.mark.slow
def test_quantised__by_onnx_runtime_in_every_form__weights_and_scales_cost_nothing(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    old = tmp_path / "old.onnx"
    onnx.save(_network(), old)
    dear = []
    for name, quantise in _variants(quantization):
        quantise(old, tmp_path / "new.onnx")
        new = (tmp_path / "new.onnx").read_bytes()
        patch, stats = make(old.read_bytes(), new)
        assert applied(old.read_bytes(), patch) == new
        spent = sum(item.patch_bytes for item in stats.tensors if item.dtype in {"int8", "uint8"})
        found = [item for item in stats.tensors if item.predictor == "quantise" and item.dtype in {"int8", "uint8"}]
        if spent > 100 or len(found) < 3 or len(patch) > 4_000:
            dear.append((name, spent, len(found), len(patch)))
    assert dear == []


def test_quantised__numbers_of_a_file_that_make_no_sense__cost_bytes_and_nothing_else() -> None:
    array = weights(3, 64, 64)
    array[0, 0] = -np.inf
    new = _quantised(weights(3, 64, 64), QUANTISERS["whole_tensor"], 0)
    old = files.onnx_file({"w": array})[0]
    assert applied(old, make(old, new)[0]) == new
    layout = describe(Held(new))
    (described,) = (item.quantisation for item in layout.segments if item.quantisation is not None)
    absurd = tuple(
        replace(item, quantisation=replace(described, zero_points=(2**64,))) if item.quantisation is not None else item
        for item in layout.segments
    )
    layouts = (describe(Held(old)), replace(layout, segments=absurd))
    assert applied(old, make(old, new, layouts=layouts)[0]) == new


@pytest.mark.filterwarnings("error")
def test_quantised__signalling_nans_and_scales_unknown__exact_and_quiet() -> None:
    array = weights(3, 300, 256)
    array.view(np.uint32)[::7, ::5] = 0x7F800001
    old = files.safetensors({"w": array})
    whole = np.clip(np.rint(np.where(np.isnan(array), 0, array) * 40), -127, 127).astype(np.int8)
    patch, _ = make(old, new := files.safetensors({"w": whole}))
    assert applied(old, patch) == new


@pytest.mark.filterwarnings("error")
def test_requantised__scales_beyond_all_proportion__exact_and_quiet() -> None:
    wide, narrow = weights(3, 64, 64), weights(4, 64, 64)
    old = files.onnx_int8({"w": wide * np.float32(1e30)})
    new = files.onnx_int8({"w": narrow * np.float32(1e-30)})
    assert applied(old, make(old, new)[0]) == new


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_quantised__floats_that_were_all_alike_and_scales_unknown__exact_and_quiet(value: float) -> None:
    old = files.safetensors({"w": np.full((64, 64), value, np.float32)})
    new = files.safetensors({"w": np.clip(np.rint(weights(3, 64, 64) * 40), -127, 127).astype(np.int8)})
    assert applied(old, make(old, new)[0]) == new


@pytest.mark.parametrize("quantiser", ["full_range", "asymmetric", "whole_tensor"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(300, 256), (256, 256)], ids=["oblong", "square"])
def test_quantised__stored_by_columns__still_follows_from_the_floats(
    quantiser: str, axis: int, shape: tuple[int, int]
) -> None:
    array = weights(3, *shape)
    turned = np.ascontiguousarray(array.T)
    old, new = files.onnx_file({"w": array})[0], _quantised(turned, QUANTISERS[quantiser], axis)
    patch, stats = make(old, new, block_bytes=16_384)
    assert applied(old, patch) == new
    assert {item.predictor for item in stats.tensors if item.elements >= 256} <= {"scales", "quantise"}
    assert len(patch) < 750


@pytest.mark.parametrize("block_bytes", [4096, 16_384, 512 << 10])
def test_transposed__floats_of_any_type__next_to_nothing_and_few_reads(block_bytes: int) -> None:
    array = weights(3, 250, 300)
    old = Held(files.safetensors({"a": weights(1, 7), "w": array}))
    for made in (array.T, array.T.astype("f2"), files.bfloat16(np.ascontiguousarray(array.T))):
        new = files.safetensors({"a": weights(1, 7), "w": np.ascontiguousarray(made)})
        patch, stats = make(old.content, new, block_bytes=block_bytes)
        assert [item.predictor for item in stats.tensors] == ["copy", "cast"]
        assert len(patch) < 1_500
        old.reads.clear()
        written = Written()
        apply(Held(patch), old, written)
        assert bytes(written.content) == new
        assert len(old.reads) <= 250 * (len(new) // block_bytes + 2)
        assert sum(length for _, length in old.reads) <= 2 * len(old.content)


def test_transposed__too_many_rows_for_a_block__left_to_other_ways() -> None:
    array = weights(3, 2000, 8)
    old, new = (files.safetensors({"w": part}) for part in (array, np.ascontiguousarray(array.T)))
    patch, stats = make(old, new, block_bytes=4096)
    assert applied(old, patch) == new
    assert stats.tensors[0].predictor != "cast"


def test_transposed__applied_in_place__its_reach_is_that_of_the_whole_matrix() -> None:
    array = weights(3, 250, 300)
    patch, _ = make(files.safetensors({"w": array}), new := files.safetensors({"w": np.ascontiguousarray(array.T)}))
    assert read_header(Held(patch)).reach_back >= array.nbytes - len(new) // 50
