"""Guesses at how a tensor was made from an older one, each with the parameters that make the guess good.

Each fit looks at a sample first and gives up early; only those that look right there read the tensor as a whole, in windows.
Whether a fit is used is decided by what it saves: a wrong one costs size, never correctness.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from device_client.wire.tensor1.derivations import derive, differences
from device_client.wire.tensor1.elements import Element, Integers, integers, ordered, reals
from device_client.wire.tensor1.format import (
    MAX_MULTIPLIES,
    MAX_PARAMETER_BYTES,
    Derivation,
    Instruction,
    Kind,
    Predictor,
    pack_parameters,
)
from device_client.wire.tensor1.io import RandomAccess
from device_client.wire.tensor1.packing import FIELDS, Packing
from device_client.wire.tensor1.predictors import predict
from fleet.adapters.delta_tensor.samples import Sample
from fleet.adapters.delta_tensor.tensors import Tensor, sample_ranges
from fleet.domain.layouts import Quantisation, Segment

WINDOW_ELEMENTS: Final = 1 << 17
_STEP: Final = 2.0**-24
# What one run of training can have decayed a weight by, in steps of 2**-24.
_DECAYS: Final = (1.5, 1e5)
# Looking for a decay takes longer than the bytes that it could save of fewer elements are worth.
_MIN_DECAYED: Final = 4096
# Elements on which decays are tried out.
_REPLAYED: Final = 64
_MIN_ROW: Final = 8
# Longer rows would not fit the memory that an encoder is given; nobody's matrices have them.
_MAX_ROW: Final = 1 << 20
# A scale is fitted to whole numbers that are not clipped, and bounded by those that are far from zero.
_SLOPE_RANGE: Final = (8, 127)
_FAR: Final = 16
_MIN_POINTS: Final = 32
_TRIED_BLOCKS: Final = 1024
_INT32: Final = (-(1 << 31), (1 << 31) - 1)


@dataclass(frozen=True, slots=True)
class Fit:
    """A predictor with what it needs. Of derived parameters, `stored` is what is left to write."""

    predictor: Predictor
    scalars: tuple[int, ...] = ()
    parameters: bytes = b""
    derivation: Derivation | None = None
    stored: bytes | None = None

    @property
    def price_bytes(self) -> float:
        """About how long the parameter record will be: its byte planes' entropy, which is what deflate makes of numbers."""
        return planes_bytes(self.parameters if self.stored is None else self.stored)

    @property
    def written(self) -> bytes:
        """The parameter record."""
        return pack_parameters(self.parameters if self.stored is None else self.stored)


def planes_bytes(words: bytes) -> float:
    """The entropy of the four byte planes of words."""
    total = 0.0
    for index in range(4):
        counts = np.bincount(np.frombuffer(words, dtype=np.uint8)[index::4], minlength=1)
        counts = counts[counts > 0]
        total += float((counts * np.log2(counts.sum() / counts)).sum()) / 8 if len(counts) else 0.0
    return total


def middle(values: NDArray[Any]) -> float:
    """The median of one or more values, the upper one of two. `np.median` takes longer to import than to work."""
    half = len(values) // 2
    return float(np.partition(values, half)[half])


@dataclass(frozen=True, slots=True)
class Pair:
    """Two float tensors of equally many elements, readable in windows."""

    old: RandomAccess
    new: RandomAccess
    old_offset: int
    new_offset: int
    old_element: Element
    new_element: Element
    count: int
    inner: int

    @property
    def rows(self) -> int:
        """Rows of `inner` elements."""
        return self.count // self.inner

    def windows(self, unit: int = 1) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
        """(first element, old numbers, new numbers) of runs of whole units."""
        step = max(1, WINDOW_ELEMENTS // unit) * unit
        for first in range(0, self.count, step):
            count = min(step, self.count - first)
            yield first, self.old_run(first, count), self.new_run(first, count)

    def old_run(self, first: int, count: int) -> NDArray[np.float32]:
        """Some old numbers as float32."""
        return _run(self.old, self.old_offset, self.old_element, first, count)

    def new_run(self, first: int, count: int) -> NDArray[np.float32]:
        """Some new numbers as float32."""
        return _run(self.new, self.new_offset, self.new_element, first, count)

    def old_rows(self, runs: Sequence[tuple[int, int]], start: int, length: int) -> NDArray[np.float32]:
        """Of runs of rows, (first, count) each, `length` old numbers from `start` on: a matrix."""
        return self._rows(self.old, self.old_offset, self.old_element, runs, slice(start, start + length))

    def new_rows(self, runs: Sequence[tuple[int, int]], start: int, length: int) -> NDArray[np.float32]:
        """The same of the new numbers."""
        return self._rows(self.new, self.new_offset, self.new_element, runs, slice(start, start + length))

    def _rows(
        self, file: RandomAccess, offset: int, element: Element, runs: Sequence[tuple[int, int]], columns: slice
    ) -> NDArray[np.float32]:
        length, parts = columns.stop - columns.start, []
        for top, count in runs:
            place = offset + (top * self.inner + columns.start) * element.width
            raw = integers(file.read_at(place, ((count - 1) * self.inner + length) * element.width), element)
            parts += [raw[index * self.inner : index * self.inner + length] for index in range(count)]
        return _finite(np.concatenate(parts), element).reshape(-1, length)


def _run(file: RandomAccess, offset: int, element: Element, first: int, count: int) -> NDArray[np.float32]:
    raw = integers(file.read_at(offset + first * element.width, count * element.width), element)
    return _finite(raw, element)


def _finite(raw: Integers, element: Element) -> NDArray[np.float32]:
    values = reals(raw, element)
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.float32(0.0))


def float_fits(pair: Pair, sample: Sample) -> Iterator[Fit]:
    """Fits between two tensors of floats of one type, likeliest first."""
    old, new = sample.old_reals(), sample.new_reals()
    with np.errstate(all="ignore"):
        found = (
            prune(pair, old, new),
            decay(old, new) if pair.new_element is Element.F32 and pair.count >= _MIN_DECAYED else None,
            row_scale(pair, sample, old, new),
        )
        yield from (fit for fit in found if fit is not None)


def prune(pair: Pair, old: NDArray[np.float32], new: NDArray[np.float32]) -> Fit | None:
    """Magnitude pruning: everything up to some size became zero."""
    gone = (new == 0) & (old != 0)
    if np.count_nonzero(gone) < 0.02 * len(new):
        return None
    threshold = float(np.abs(old[gone]).max())
    if np.count_nonzero((np.abs(old) <= threshold) & (new != 0)) > 0.02 * len(new):
        return None
    largest = np.float32(0.0)
    signed = 0
    for _, before, after in pair.windows():
        lost = (after == 0) & (before != 0)
        if lost.any():
            largest = max(largest, np.abs(before[lost]).max())
            signed += int(np.count_nonzero(np.signbit(after[lost])))
    return Fit(Predictor.PRUNE, (int(np.float32(largest).view(np.uint32)), 1 if signed else 0))


def decay(old: NDArray[np.float32], new: NDArray[np.float32]) -> Fit | None:
    """Weights that got no gradient, only AdamW's decay: each step multiplied them by 1 - k 2**-24."""
    with np.errstate(all="ignore"):
        lost = np.where((old != 0) & (old != new), (old.astype(np.float64) - new) / old / _STEP, np.nan)
    known = lost[np.isfinite(lost)]
    if len(known) < 0.2 * len(old):
        return None
    total = middle(known)
    # Each multiply takes a few last places and rounds them the same way every time: up to a half more or less.
    near = np.abs(lost - total) <= 4 + 0.5 * abs(total)
    if not _DECAYS[0] <= total <= _DECAYS[1] or np.count_nonzero(near) < 0.1 * len(old):
        return None
    chosen = np.flatnonzero(near)
    chosen = chosen[:: max(1, len(chosen) // _REPLAYED)]
    before, after = old[chosen], new[chosen]
    best, hits = (max(1, round(total)), 1), 0
    for step in range(1, 65):
        times = round(total / step)
        if not 1 <= times <= MAX_MULTIPLIES:
            continue
        low, high = max(1, times * 2 // 3), min(MAX_MULTIPLIES, times * 3 // 2)
        # Row n - 1 is what n multiplies make, each rounded, as `predict` does it.
        values = np.full((high, len(before)), np.float32(1.0 - step * _STEP))
        values[0] *= before
        np.multiply.accumulate(values, axis=0, out=values)
        right = np.count_nonzero(values[low - 1 :] == after, axis=1)
        if right.max() > hits:
            best, hits = (step, low + int(right.argmax())), int(right.max())
        if hits > 0.8 * len(before):
            break
    return Fit(Predictor.DECAY, best)


def row_scale(pair: Pair, sample: Sample, old: NDArray[np.float32], new: NDArray[np.float32]) -> Fit | None:
    """Rows that were multiplied by one number each, as when a batch norm is folded into a convolution."""
    inner, rows = pair.inner, pair.rows
    if not _MIN_ROW <= inner <= _MAX_ROW or rows < 1 or rows * inner != pair.count or 4 * rows > MAX_PARAMETER_BYTES:
        return None
    row = sample.indices() // inner
    row -= row[0]
    dot = np.bincount(row, old.astype(np.float64) * new)
    norm = np.bincount(row, old.astype(np.float64) ** 2)
    ratio = np.where(norm > 0, dot / np.where(norm > 0, norm, 1), 1.0)
    left = np.abs(new - old * ratio[row]).mean()
    if not left < 0.7 * np.abs(new - old).mean():
        return None
    scales = np.ones(rows, dtype=np.float64)
    for first, before, after in pair.windows(inner):
        top = first // inner
        grid, made = before.reshape(-1, inner).astype(np.float64), after.reshape(-1, inner)
        energy = np.einsum("ij,ij->i", grid, grid)
        product = np.einsum("ij,ij->i", grid, made)
        scales[top : top + len(grid)] = np.where(energy > 0, product / np.where(energy > 0, energy, 1), 1.0)
    return Fit(Predictor.ROW_SCALE, (inner, rows), scales.astype("<f4").tobytes())


# ------------------------------------------------------------------------------------- whole numbers


def spread_of(segment: Segment, axis: int | None, count: int) -> tuple[int, int] | None:
    """(inner, count) for parameters along an axis of a tensor; None if they do not fit it."""
    if count == 1:
        return segment.elements, 1
    if axis is None or not 0 <= axis < len(segment.shape) or segment.shape[axis] != count:
        return None
    inner = 1
    for size in segment.shape[axis + 1 :]:
        inner *= size
    return inner, count


def spreads_of(segment: Segment, described: Quantisation) -> list[tuple[int, int]]:
    """(inner, count) for the scales, along the axis that is described and others of that size: it may have been a guess."""
    axes = [described.axis, *(axis for axis in range(len(segment.shape)) if axis != described.axis)]
    if described.scale_count == 1:
        axes = axes[:1]
    found = (spread_of(segment, axis, described.scale_count) for axis in axes)
    return [spread for spread in found if spread is not None]


def scales_of(file: RandomAccess, quantisation: Quantisation) -> NDArray[np.float32]:
    """The scales as the file has them."""
    return np.frombuffer(file.read_at(quantisation.scale_offset, 4 * quantisation.scale_count), dtype="<f4")


def zeros_of(quantisation: Quantisation) -> NDArray[np.int32]:
    """One zero point for each scale."""
    points = quantisation.zero_points or (0,)
    if len(points) != quantisation.scale_count:
        points = points[:1] * quantisation.scale_count
    # A file may state anything.
    if not _INT32[0] <= min(points) <= max(points) <= _INT32[1]:
        points = tuple(max(_INT32[0], min(point, _INT32[1])) for point in points)
    return np.array(points, dtype="<i4")


def derived(fit: Fit, derivation: Derivation, old: RandomAccess) -> Fit:
    """The fit with parameters that are derived and corrected."""
    made = derive(derivation, fit.scalars[1], len(fit.parameters), old.read_at)
    return replace(fit, derivation=derivation, stored=differences(made, fit.parameters))


def quantise(
    old: RandomAccess, new: RandomAccess, segment: Segment, sample: Sample, derivation: Derivation | None
) -> Iterator[Fit]:
    """Floats that became whole numbers: with the new file's own scales, else with one that the sample tells."""
    described = segment.quantisation
    if described is not None and 8 * described.scale_count <= MAX_PARAMETER_BYTES:
        scales = scales_of(new, described)
        spreads = spreads_of(segment, described) if np.all(scales > 0) else []
        for spread in spreads:
            fit = Fit(Predictor.QUANTISE, spread, scales.tobytes() + zeros_of(described).tobytes())
            yield fit if derivation is None else derived(fit, derivation, old)
        if spreads:
            return
    # Signalling NaNs become quiet ones, which is no news.
    with np.errstate(invalid="ignore"):
        before, made = sample.old_reals().astype(np.float64), sample.new_reals().astype(np.float64)
    inside = (np.abs(made) < _SLOPE_RANGE[1]) & (np.abs(made) > _SLOPE_RANGE[0]) & np.isfinite(before)
    # One number, many times over, tells no slope.
    if np.count_nonzero(inside) < _MIN_POINTS or np.ptp(before[inside]) == 0:
        return
    slope, offset = np.polyfit(before[inside], made[inside], 1)
    if not slope > 0:
        return
    zero = round(float(offset))
    shifted = made - zero
    outer = np.abs(shifted) > _FAR
    if not outer.any():
        return
    edges = np.abs(before[outer])
    low = float((edges / (np.abs(shifted[outer]) + 0.5)).max())
    high = float((edges / (np.abs(shifted[outer]) - 0.5)).min())
    scale = np.array([(low + high) / 2 if low < high else 1 / slope], dtype="<f4")
    yield Fit(Predictor.QUANTISE, (segment.elements, 1), scale.tobytes() + np.array([zero], "<i4").tobytes())


def requantise(old: RandomAccess, new: RandomAccess, before: Segment, after: Segment) -> Iterator[Fit]:
    """Whole numbers whose scales changed: each stands for the same real number in other units."""
    first, second = before.quantisation, after.quantisation
    if first is None or second is None or first.scale_count not in {1, second.scale_count}:
        return
    spread = spread_of(after, second.axis, second.scale_count)
    if spread is None or 12 * second.scale_count > MAX_PARAMETER_BYTES:
        return
    was = np.broadcast_to(scales_of(old, first), (second.scale_count,)).astype(np.float64)
    now = scales_of(new, second).astype(np.float64)
    if not (np.all(now > 0) and np.all(was > 0)):
        return
    # A file may state any two.
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = (was / now).astype("<f4")
    lost = np.broadcast_to(zeros_of(first), (second.scale_count,))
    points = zeros_of(second)
    if np.array_equal(lost, points) and np.array_equal(was, now):
        return
    parameters = ratio.tobytes() + lost.astype("<i4").tobytes() + points.tobytes()
    yield Fit(Predictor.REQUANTISE, spread, parameters)


def packed(old: RandomAccess, new: RandomAccess, before: Tensor, after: Tensor) -> Instruction | None:
    """Floats that became blocks of ggml, if most of those that are tried come out right."""
    blocks, element = after.segment.blocks, before.element
    if blocks is None or element is None or not element.is_float or before.segment.elements != after.segment.elements:
        return None
    kind = Packing.__members__.get(blocks.name.upper())
    if kind is None or FIELDS[kind] != after.fields:
        return None
    item = Instruction(
        Kind.DELTA, after.segment.length, before.segment.offset, Predictor.PACK, after.fields, element, (kind,)
    )
    right = tried = 0
    for first, count in sample_ranges(after.count, 1, _TRIED_BLOCKS):
        source = old.read_at(item.old_offset + first * item.old_record_bytes, count * item.old_record_bytes)
        made = new.read_at(after.segment.offset + first * item.record_bytes, count * item.record_bytes)
        records = np.frombuffer(made, dtype=np.uint8).reshape(count, -1)
        position = 0
        for field, guess in zip(after.fields, predict(item, b"", source, first, count), strict=True):
            cells = ordered(guess, field.element).view(np.uint8).reshape(count, -1)
            right += int(np.count_nonzero(cells == records[:, position : position + field.length]))
            position += field.length
        tried += len(made)
    return item if right > tried // 2 else None
