"""Patches by tensor: lossless for any two files, never much larger than the new one, the same every time, resumable anywhere."""

import hashlib
import lzma
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_client.wire.errors import MalformedPatchError
from device_client.wire.tensor1 import Checkpoint, check_base, decode, read_header
from device_client.wire.tensor1.decoder import read_prologue
from device_client.wire.tensor1.errors import OutputMismatchError, WrongBaseError
from device_client.wire.tensor1.format import HEADER_BYTES, MAX_INSTRUCTIONS, MAX_STREAM_BYTES, Flag
from fleet.adapters.delta_tensor import Coding
from fleet.adapters.delta_tensor.encoder import _probable
from fleet.domain.layouts import Dtype, Layout, Quantisation, Segment
from fleet.domain.layouts.blocks import BLOCKS
from tests.delta.pairs import files
from tests.delta.patches import Held, Written, applied, make, weights

F32 = np.float32
WIDTHS = {
    Dtype.FLOAT32: "<f4",
    Dtype.FLOAT16: "<f2",
    Dtype.BFLOAT16: "<u2",
    Dtype.FLOAT64: "<f8",
    Dtype.INT8: "<i1",
    Dtype.UINT8: "<u1",
    Dtype.INT64: "<i8",
    Dtype.INT16: "<i2",
    Dtype.INT32: "<i4",
}


@st.composite
def _quantisations(draw: st.DrawFn, rows: int, columns: int) -> Quantisation | None:
    """What a file may say of scales, whether it is true or not."""
    if draw(st.booleans()):
        return None
    axis = draw(st.sampled_from([None, 0, 1, 7]))
    count = draw(st.sampled_from([1, rows, columns]))
    points = draw(st.sampled_from([(), (3,), (2**63,), (-(2**40),) * count]))
    return Quantisation(draw(st.integers(0, 20_000)), count, points, axis)


@st.composite
def _layouts(draw: st.DrawFn, size: int) -> Layout:
    """Any sound layout of a file: segments of any type anywhere, right or wrong about what is there."""
    segments = []
    for number in range(draw(st.integers(0, 4))):
        rows, columns = draw(st.integers(1, 64)), draw(st.integers(1, 64))
        offset = draw(st.integers(0, max(0, size - 1)))
        if draw(st.integers(0, 5)) == 0:
            blocks = BLOCKS[draw(st.sampled_from(["q8_0", "q4_0", "q5_1", "q6_k"]))]
            shape = (draw(st.sampled_from([rows, 16 * 32 // blocks.elements])), blocks.elements)
            segments.append(Segment(offset, shape[0] * blocks.length, Dtype.BLOCKS, shape, f"t{number}", blocks))
            continue
        dtype = draw(st.sampled_from(sorted(WIDTHS)))
        shape = draw(st.sampled_from([(rows, columns), (16, 32), (64, 64)]))
        length = shape[0] * shape[1] * np.dtype(WIDTHS[dtype]).itemsize
        described = draw(_quantisations(*shape))
        segments.append(Segment(offset, length, dtype, shape, f"t{number}", quantisation=described))
    return Layout.of(size, "any", segments)


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[bytes, bytes, Layout, Layout]:
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(0, 40_000))
    kind = draw(st.sampled_from(["bytes", "floats", "zeros"]))
    old = {
        "bytes": lambda: dice.bytes(size),
        "floats": lambda: dice.standard_normal(size // 4, dtype=np.float32).tobytes(),
        "zeros": lambda: bytes(size),
    }[kind]()
    new = bytearray(old)
    for _ in range(draw(st.integers(0, 6))):
        at, length = int(dice.integers(0, len(new) + 1)), int(dice.integers(0, 3000))
        match draw(st.sampled_from(["insert", "delete", "replace", "nudge", "move"])):
            case "insert":
                new[at:at] = dice.bytes(length)
            case "delete":
                del new[at : at + length]
            case "replace":
                new[at : at + length] = dice.bytes(length)
            case "move":
                part = new[at : at + length]
                del new[at : at + length]
                new += part
            case _:
                numbers = np.frombuffer(bytes(new[: len(new) // 4 * 4]), "<u4") + np.uint32(length % 7)
                new[: numbers.nbytes] = numbers.tobytes()
    return old, bytes(new), draw(_layouts(len(old))), draw(_layouts(len(new)))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(pair=_pairs(), coding=st.sampled_from(list(Coding)), block_bytes=st.sampled_from([4096, 10_000, 512 << 10]))
def test_patch__any_two_files_and_layouts__gives_the_new_file(
    pair: tuple[bytes, bytes, Layout, Layout], coding: Coding, block_bytes: int
) -> None:
    old, new, before, after = pair
    patch, stats = make(old, new, coding=coding, layouts=(before, after), block_bytes=block_bytes)
    assert applied(old, patch) == new
    assert len(patch) == stats.patch_bytes <= len(new) + HEADER_BYTES
    assert coding is Coding.PCODEC or not read_header(Held(patch)).flags & Flag.NEEDS_PCODEC


CASES: dict[str, Callable[[], tuple[np.ndarray, np.ndarray, str]]] = {
    "fine_tuned": lambda: (weights(1, 256, 384), weights(1, 256, 384) + weights(2, 256, 384) * 1e-4, "same"),
    "row_scale": lambda: (
        weights(1, 256, 384),
        weights(1, 256, 384) * (1 + weights(2, 256, 1) * 1e-2).astype("f4"),
        "row_scale",
    ),
    "low_rank": lambda: (
        weights(1, 384, 384),
        weights(1, 384, 384) + (weights(2, 384, 4) @ weights(3, 4, 384)) * np.float32(1e-3),
        "low_rank",
    ),
    "decay": lambda: (weights(1, 256, 384), _decayed(weights(1, 256, 384), 3, 40), "decay"),
    "prune": lambda: (
        weights(1, 256, 384),
        np.where(abs(weights(1, 256, 384)) < 0.5, 0, weights(1, 256, 384)),
        "prune",
    ),
    "cast": lambda: (weights(1, 256, 384), weights(1, 256, 384).astype("f2"), "cast"),
    "brain": lambda: (weights(1, 256, 384), files.bfloat16(weights(1, 256, 384)), "cast"),
    "equal": lambda: (weights(1, 256, 384), weights(1, 256, 384), "copy"),
}


def _decayed(array: np.ndarray, step: int, times: int) -> np.ndarray:
    for _ in range(times):
        array = array * np.float32(1 - step * 2.0**-24)
    return array


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("coding", list(Coding))
def test_predictor__how_the_tensor_was_made__is_found_and_undone(name: str, coding: Coding) -> None:
    before, after, predictor = CASES[name]()
    old, new = files.safetensors({"w": before}), files.safetensors({"w": np.ascontiguousarray(after)})
    patch, stats = make(old, new, coding=coding)
    assert applied(old, patch) == new
    assert [item.predictor for item in stats.tensors] == [predictor]
    limit = {"fine_tuned": 0.6, "row_scale": 0.15, "low_rank": 0.15, "decay": 0.02}.get(name, 0.01)
    assert len(patch) < limit * len(new)


@pytest.mark.parametrize("kind", ["f2", "bf16", "f4"])
def test_update__as_large_as_its_row_and_column_are__is_coded_by_them(kind: str) -> None:
    before = weights(1, 700, 384)
    even = weights(2, 700, 384) * np.float32(1e-3)
    uneven = even * np.exp(weights(3, 700, 1)) * np.exp(weights(4, 1, 384))
    uneven[200:300] = 0
    casts: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "f2": lambda a: a.astype("f2"),
        "bf16": files.bfloat16,
        "f4": lambda a: a,
    }
    cast = casts[kind]
    old, new = files.safetensors({"w": cast(before)}), files.safetensors({"w": cast(before + uneven)})
    mixed = uneven.reshape(-1).copy()
    np.random.default_rng(5).shuffle(mixed)
    other = files.safetensors({"w": cast(before + mixed.reshape(700, 384))})
    # A block size that no row fits, so that blocks begin in the middle of rows.
    patch, _ = make(old, new, block_bytes=200_000)
    assert applied(old, patch) == new
    assert len(patch) < 0.93 * len(make(old, other, block_bytes=200_000)[0])


def test_patch__long_run_of_bytes__streams_that_a_device_can_keep() -> None:
    words = random.Random(5).choices([b"defect ", b"scratch ", b"dent ", b"none "], k=30_000)
    new = (b"".join(words) * 256)[: (17 << 20) + 77]
    patch, _ = make(b"", new)
    header = read_header(Held(patch))
    lengths = [item.length for item in read_prologue(Held(patch), header).instructions]
    assert lengths == [MAX_STREAM_BYTES, (1 << 20) + 77]
    assert applied(b"", patch) == new
    assert len(patch) < 0.02 * len(new)


def test_patch__infinities_and_nans__are_numbers_like_any_other() -> None:
    before = weights(1, 64, 384)
    before[::7] = np.nan
    before[::5] = -np.inf
    after = before.copy()
    after[3::11] = np.inf
    after[1] = -0.0
    for made in (after, after.astype("f2"), files.bfloat16(after)):
        old, new = files.safetensors({"w": before}), files.safetensors({"w": made})
        assert applied(old, make(old, new)[0]) == new


def test_patch__tensors_renamed_and_shuffled__still_finds_them() -> None:
    before = {f"layer.{index}": weights(index, 64, 96) for index in range(6)}
    after = {f"block.{index}": before[f"layer.{index}"] * np.float32(1.00001) for index in (3, 1, 5, 0, 2, 4)}
    old, new = files.safetensors(before), files.safetensors(after)
    patch, _ = make(old, new)
    assert applied(old, patch) == new
    assert len(patch) < 0.25 * len(new)


def test_patch__tensors_whose_names_moved__goes_by_what_they_hold() -> None:
    before = {f"onnx::MatMul_{index}": weights(index, 64, 96) for index in range(6)}
    after = {f"onnx::MatMul_{index}": before[f"onnx::MatMul_{(index + 1) % 6}"] * F32(1.00001) for index in range(6)}
    old, new = files.safetensors(before), files.safetensors(after)
    patch, _ = make(old, new)
    assert applied(old, patch) == new
    assert len(patch) < 0.25 * len(new)


@pytest.mark.parametrize("columns", [96, 64], ids=["oblong", "square"])
@pytest.mark.parametrize("is_quantised", [False, True], ids=["floats", "quantised"])
def test_patch__matrices_renamed_and_transposed__still_finds_them(columns: int, *, is_quantised: bool) -> None:
    before = {f"layer.{index}": weights(index, 64, columns) for index in range(40)}

    def converted(array: np.ndarray) -> np.ndarray:
        turned = np.ascontiguousarray(array.T)
        return np.rint(turned * F32(30)).clip(-127, 127).astype(np.int8) if is_quantised else turned

    old = files.safetensors(before)
    new = files.safetensors(
        {f"onnx::MatMul_{7 * index % 40}": converted(before[f"layer.{index}"]) for index in range(40)}
    )
    patch, _ = make(old, new)
    assert applied(old, patch) == new
    assert len(patch) < 0.03 * len(new)


def test_patch__square_matrices_transposed_under_their_names__still_finds_them() -> None:
    before = {f"layer.{index}": weights(index, 64, 64) for index in range(6)}
    old = files.safetensors(before)
    new = files.safetensors({name: np.ascontiguousarray(array.T) for name, array in before.items()})
    patch, _ = make(old, new)
    assert applied(old, patch) == new
    assert len(patch) < 0.03 * len(new)


def test_patch__tensors_renamed_and_reshaped__still_finds_them() -> None:
    shapes = [(64, 96, 1, 1), (96, 64, 1), (6144, 1), (32, 8, 24)]
    before = {f"layer.{index}": weights(index, 64, 96) for index in range(4)}
    after = {f"conv.{index}": before[f"layer.{index}"] for index in range(4)}
    old = files.safetensors(before)
    new = files.safetensors(
        {name: array.reshape(shape) for (name, array), shape in zip(after.items(), shapes, strict=True)}
    )
    patch, _ = make(old, new)
    assert applied(old, patch) == new
    assert len(patch) < 0.03 * len(new)


@pytest.mark.parametrize("cast", ["f2", "bf16"])
def test_patch__tensors_renamed_and_rounded__still_finds_them(cast: str) -> None:
    before = {f"layer.{index}": weights(index, 64, 96) for index in range(6)}
    rounded = {name: files.bfloat16(array) if cast == "bf16" else array.astype("f2") for name, array in before.items()}
    old = files.safetensors(before)
    new = files.safetensors({name.replace("layer", "block"): array for name, array in rounded.items()})
    patch, _ = make(old, new)
    assert applied(old, patch) == new
    assert len(patch) < 0.02 * len(new)


def test_patch__same_inputs__same_bytes() -> None:
    old, new = files.safetensors({"w": weights(1, 384, 384)}), files.safetensors({"w": weights(1, 384, 384) * 1.001})
    assert make(old, new, block_bytes=8192)[0] == make(old, new, block_bytes=8192)[0]


@pytest.mark.parametrize(
    "new",
    [
        b"",
        b"x",
        np.random.default_rng(0).bytes(300_000),
        b"the same line of text, again and again\n" * 20_000,
        bytes(range(256)) * 2000,
        files.safetensors({"w": weights(5, 200, 300), "v": weights(5, 200, 300)}),
    ],
)
def test_patch__nothing_in_common__is_no_larger_than_the_best_full_encoding_and_a_header(new: bytes) -> None:
    patch, _ = make(np.random.default_rng(1).bytes(50_000), new)
    assert applied(np.random.default_rng(1).bytes(50_000), patch) == new
    assert len(patch) <= min(len(new), len(lzma.compress(new, preset=6))) + 256


def _lines() -> bytes:
    dice = random.Random(3)
    return "\n".join(
        f"{dice.random():.4f} worker[{dice.randrange(900)}]: took {dice.randrange(80)} ms" for _ in range(9_000)
    ).encode()


def _records() -> bytes:
    dice = np.random.default_rng(4)
    kinds = np.dtype([("number", "<u4"), ("place", "<u2"), ("kind", "u1"), ("name", "S9")])
    table = np.zeros(20_000, kinds)
    table["number"], table["kind"] = np.cumsum(dice.integers(1, 9, len(table))), dice.integers(0, 4, len(table))
    table["place"] = dice.normal(500, 40, len(table))
    table["name"] = dice.choice([b"defect", b"scratch", b"dent", b"none"], len(table))
    return table.tobytes()


def _counters() -> bytes:
    dice = np.random.default_rng(5)
    return bytes((dice.integers(0, 40, 60_000) * 4096 + dice.normal(0, 30, 60_000).astype(np.int64)).astype("<u4"))


def _shades() -> bytes:
    y, x = np.mgrid[0:400, 0:600]
    noise = np.random.default_rng(6).normal(0, 2, x.shape)
    return bytes((128 + 60 * np.sin(x / 90) + 50 * np.cos(y / 70) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "new", [_lines(), _records(), _counters(), _shades()], ids=["lines", "records", "counters", "shades"]
)
def test_patch__bytes_of_any_kind__no_larger_than_xz_at_its_hardest_and_256_bytes(new: bytes) -> None:
    patch, _ = make(b"", new)
    assert applied(b"", patch) == new
    assert len(patch) <= len(lzma.compress(new, preset=9 | lzma.PRESET_EXTREME)) + 256


class _Endless:
    """A hundred gigabytes of text."""

    size = 100 << 30

    def read_at(self, offset: int, length: int) -> bytes:
        line = b"the same line of text, again and again\n"
        return (line * (length // len(line) + 2))[offset % len(line) :][:length]


def test_whole_file__of_any_size__is_a_candidate_where_it_shrinks() -> None:
    assert _probable(_Endless()) < 0.05 * _Endless.size


def _long_pair() -> tuple[bytes, bytes]:
    """A pair whose patch has plain, heavy and streamed blocks."""
    text = "".join(f"line {index * index % 997}\n" for index in range(9000)).encode()
    before = {"a": weights(1, 96, 200), "b": weights(2, 128, 128), "c": weights(3, 50, 50)}
    product = (weights(5, 128, 4) @ weights(6, 4, 128)) * np.float32(1e-3)
    after = {"a": before["a"] + weights(4, 96, 200) * np.float32(1e-4), "b": before["b"] + product, "c": before["c"]}
    return files.safetensors(before), files.safetensors(after) + text


@pytest.mark.parametrize("coding", list(Coding))
def test_decode__stopped_at_any_block__goes_on_from_its_checkpoint(coding: Coding) -> None:
    old, new = _long_pair()
    patch, _ = make(old, new, coding=coding, block_bytes=8192)
    written = Written()
    points = list(decode(Held(patch), Held(old), written))
    assert written.content == new
    assert len(points) > 20
    assert any(point.heavy_offset for point in points)
    for point in points:
        rest = Written(new[: point.output_offset])
        reads = Held(patch)
        assert list(decode(reads, Held(old), rest, start=point)) == points[point.block :]
        assert rest.content == new


def test_decode__checkpoint_of_another_patch__is_refused() -> None:
    old, new = _long_pair()
    patch, _ = make(old, new, block_bytes=8192)
    with pytest.raises(MalformedPatchError):
        list(decode(Held(patch), Held(old), Written(), start=Checkpoint(3, 77, HEADER_BYTES)))


def test_decode__a_block_at_a_time__reads_forwards_and_little() -> None:
    old, new = _long_pair()
    patch, _ = make(old, new, block_bytes=8192)
    source, base = Held(patch), Held(old)
    for _ in decode(source, base, Written()):
        pass
    offsets = [offset for offset, _ in source.reads]
    assert offsets == sorted(offsets)
    assert max(length for _, length in base.reads) <= 8192


def test_check_base__another_old_file__is_refused() -> None:
    old, new = _long_pair()
    header = read_header(Held(make(old, new)[0]))
    check_base(header, Held(old))
    assert header.new_sha256 == hashlib.sha256(new).digest()
    for other in (old[:-1], old[:-1] + bytes((old[-1] ^ 1,))):
        with pytest.raises(WrongBaseError):
            check_base(header, Held(other))


def test_apply__old_file_differs_where_the_patch_only_copies__never_succeeds() -> None:
    old = files.safetensors({"w": weights(1, 300, 300)})
    new = files.safetensors({"w": weights(1, 300, 300)}, {"epoch": "2"})
    patch, _ = make(old, new)
    with pytest.raises((OutputMismatchError, MalformedPatchError)):
        applied(old[:-5] + bytes((old[-5] ^ 1,)) + old[-4:], patch)


def test_patch__thousands_of_small_tensors__share_instructions_and_are_told_apart() -> None:
    count = 3000
    before = {f"layer.{number}": array for number, array in enumerate(weights(1, count, 32))}
    after = {name: array * np.float32(1.001) for name, array in before.items()}
    old, new = files.safetensors(before), files.safetensors(after)
    patch, stats = make(old, new)
    assert applied(old, patch) == new
    assert len(read_prologue(Held(patch), read_header(Held(patch))).instructions) < 20
    assert {item.name: item.predictor for item in stats.tensors} == dict.fromkeys(before, "same")
    assert 0.9 < sum(item.patch_bytes for item in stats.tensors) / len(patch) <= 1


def test_patch__more_tensors_than_instructions__the_largest_are_tensors_still() -> None:
    # Four bytes that changed, four or eight in turn that did not, and one tensor that is worth something.
    count = MAX_INSTRUCTIONS // 2 + 100
    places = 2 * np.arange(count) + np.arange(count) // 2
    before, large = weights(2, 3 * count), weights(3, 64, 64)
    after, tuned = before.copy(), large * np.float32(1.001)
    after[places] *= np.float32(1.001)
    segments = [Segment(4 * int(place), 4, Dtype.FLOAT32, (1,), f"small.{place}") for place in places]
    segments.append(Segment(before.nbytes, large.nbytes, Dtype.FLOAT32, (64, 64), "large"))
    layout = Layout.of(before.nbytes + large.nbytes, "made up", segments)
    old, new = before.tobytes() + large.tobytes(), after.tobytes() + tuned.tobytes()
    patch, stats = make(old, new, layouts=(layout, layout))
    assert applied(old, patch) == new
    assert stats.taken_as_bytes > count // 2
    assert "large" in {item.name for item in stats.tensors}
    assert stats.patch_bytes < 0.6 * len(new)


def test_patch__tens_of_thousands_of_small_tensors_with_a_name_before_each__records() -> None:
    count = MAX_INSTRUCTIONS // 2 + 100
    before, names = weights(7, count, 6), np.arange(count * 5, dtype=np.uint32).astype(np.uint8).reshape(count, 5)
    after = before * np.float32(1.001)

    def file(values: np.ndarray) -> bytes:
        return b"head" + np.hstack([names, values.view(np.uint8)]).tobytes() + b"tail"

    segments = [Segment(9 + 29 * number, 24, Dtype.FLOAT32, (6,), str(number)) for number in range(count)]
    old, new = file(before), file(after)
    layout = Layout.of(len(new), "made up", segments)
    patch, stats = make(old, new, layouts=(layout, layout))
    assert applied(old, patch) == new
    assert (stats.taken_as_bytes, len(stats.tensors)) == (0, count)
    plain, _ = make(before.tobytes(), after.tobytes(), layouts=(Layout.of(before.nbytes, "made up", []),) * 2)
    assert len(patch) < 1.1 * len(plain)
    assert len(read_prologue(Held(patch), read_header(Held(patch))).instructions) < 9


def test_patch__more_runs_than_a_block_may_have__smaller_blocks() -> None:
    before = weights(4, 6000, 4)
    after = before.copy()
    after[:, 0] *= np.float32(1.001)
    segments = [Segment(16 * number, 4, Dtype.FLOAT32, (1,), str(number)) for number in range(len(before))]
    layout = Layout.of(before.nbytes, "made up", segments)
    old, new = before.tobytes(), after.tobytes()
    patch, stats = make(old, new, layouts=(layout, layout))
    assert applied(old, patch) == new
    assert stats.taken_as_bytes == 0
    assert read_header(Held(patch)).block_bytes < 512 << 10
