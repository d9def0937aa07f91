"""Finds the formula that made the scales of a quantised file out of the old file's floats.

Quantisers take a channel's greatest magnitude, or its range, over a number of steps: 127, 255, 64 ... The number is read off
the scales themselves, so that any margin is found too. Biases are quantised by the product of their layer's input and
weight scales: vectors of scales that are a multiple of a known one derive from the same weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from device_client.wire.tensor1.derivations import differences, parameters_of, ranges
from device_client.wire.tensor1.format import (
    MAX_BASE,
    MAX_DERIVED_READS,
    MAX_PARAMETER_BYTES,
    Derivation,
    Formula,
)
from device_client.wire.tensor1.io import RandomAccess
from fleet.adapters.delta_tensor.fitting import middle, planes_bytes, scales_of, spreads_of, zeros_of
from fleet.adapters.delta_tensor.tensors import is_transposed, tensor_of
from fleet.domain.layouts import Dtype, Quantisation, Segment

# Steps of the common quantisers: int8 with and without its lowest value, reduced to seven bits, and of four and sixteen bits.
_STEPS: Final = (127.0, 127.5, 128.0, 63.0, 63.5, 64.0, 7.0, 7.5, 8.0, 15.0, 255.0, 254.0, 32767.0, 32767.5, 65535.0)
_NEAR: Final = 1e-5
# A file may have thousands of vectors of scales of one length: only so many are compared with a bias's.
_MAX_COMPARED: Final = 512
_WHOLE: Final = frozenset({Dtype.INT8, Dtype.UINT8, Dtype.INT16, Dtype.UINT16})


@dataclass(frozen=True, slots=True)
class Derived:
    """Scales (at `scale_offset` of the new file, if they are there as such) that follow from old floats."""

    derivation: Derivation
    scales: NDArray[np.float32]

    @property
    def count(self) -> int:
        """How many."""
        return len(self.scales)


class Scales:
    """What is known of a pair's scales. Reads every old tensor that became a quantised one once."""

    def __init__(self, old: RandomAccess, new: RandomAccess, pairs: Sequence[tuple[Segment, Segment | None]]) -> None:
        self._old, self._new = old, new
        self._by_offset: dict[int, Derived] = {}
        self._by_count: dict[int, list[Derived]] = {}
        self._readable = MAX_DERIVED_READS * old.size
        floats = [
            (segment, source)
            for segment, source in pairs
            if source is not None
            and source.blocks is None
            and (element := tensor_of(source).element)
            and element.is_float
        ]
        for segment, source in floats:
            if (
                segment.dtype in _WHOLE
                and segment.quantisation is not None
                and (segment.shape == source.shape or is_transposed(source, segment))
            ):
                self._add_weights(segment, source, segment.quantisation)
        for segment, _ in floats:
            if segment.dtype is Dtype.INT32 and segment.quantisation is not None:
                self._add_multiple(segment.quantisation)

    @property
    def is_limited(self) -> bool:
        """Whether what `at` says depends on what it was asked before."""
        return bool(self._by_offset)

    def at(self, offset: int) -> Derived | None:
        """The scales at an offset of the new file; None also when a device would have to read too much by now."""
        found = self._by_offset.get(offset)
        if found is None or found.derivation.read_bytes(found.count) > self._readable:
            return None
        self._readable -= found.derivation.read_bytes(found.count)
        return found

    def _add_weights(self, segment: Segment, source: Segment, described: Quantisation) -> None:
        if 8 * described.scale_count > MAX_PARAMETER_BYTES or described.scale_offset in self._by_offset:
            return
        scales = scales_of(self._new, described)
        element = tensor_of(source).element
        if element is None or not np.all(np.isfinite(scales) & (scales > 0)):
            return
        for inner, count in spreads_of(segment, described):
            for outer, before in _places(segment, source, inner, count):
                draft = Derivation(Formula.SYMMETRIC, source.offset, element, outer, before, 0, bits(1.0), 0)
                lowest, highest = ranges(draft, count, self._old.read_at)
                found = _best(draft, lowest, highest, scales, zeros_of(described))
                if found is not None:
                    self._keep(described.scale_offset, Derived(found, scales))
                    return

    def _add_multiple(self, described: Quantisation) -> None:
        """A bias's scales: a multiple of those of its layer's weights."""
        if described.scale_offset in self._by_offset:
            return
        scales = scales_of(self._new, described)
        best, right = None, max(1, len(scales) // 2)
        for derived in self._by_count.get(len(scales), [])[:_MAX_COMPARED]:
            factor = np.float32(middle(scales.astype(np.float64) / derived.scales))
            hits = int(np.count_nonzero(derived.scales * factor == scales))
            if hits > right:
                best, right = replace(derived.derivation, factor=bits(factor), base=0), hits
        if best is not None and best.formula is Formula.SYMMETRIC:
            self._by_offset[described.scale_offset] = Derived(best, scales)

    def _keep(self, offset: int, derived: Derived) -> None:
        self._by_offset[offset] = derived
        self._by_count.setdefault(derived.count, []).append(derived)


def _places(segment: Segment, source: Segment, inner: int, count: int) -> Iterator[tuple[int, int]]:
    """(outer, inner) of the channels in the old tensor, of which `segment` has `count` of `inner` numbers each."""
    outer = segment.elements // (inner * count)
    if segment.shape == source.shape or count == 1:
        yield outer, inner
    if count > 1 and is_transposed(source, segment):
        yield inner, outer


def bits(value: float | np.floating) -> int:
    """A float32 as its bits."""
    return int(np.float32(value).view(np.uint32))


def _best(
    draft: Derivation,
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
    scales: NDArray[np.float32],
    zeros: NDArray[np.int32],
) -> Derivation | None:
    """The formula that leaves least to correct; None if writing the scales as they are costs no more."""
    wanted = scales.astype("<f4").tobytes() + zeros.astype("<i4").tobytes()
    best, cheapest = None, 0.9 * planes_bytes(wanted) + 1
    for candidate in _candidates(draft, lowest, highest, scales, zeros):
        found, points = parameters_of(candidate, lowest, highest)
        made = found.astype("<f4").tobytes() + points.astype("<i4").tobytes()
        price = planes_bytes(differences(made, wanted))
        if price < cheapest:
            best, cheapest = candidate, price
    return best


def _candidates(
    draft: Derivation,
    lowest: NDArray[np.float32],
    highest: NDArray[np.float32],
    scales: NDArray[np.float32],
    zeros: NDArray[np.int32],
) -> Iterator[Derivation]:
    largest = np.maximum(-lowest, highest).astype(np.float64)
    spread = highest.astype(np.float64) - lowest
    base = int(middle(zeros))
    for divisor in _divisors(largest, scales):
        if abs(base) <= MAX_BASE:
            yield replace(draft, divisor=bits(divisor), base=base)
    start = middle(np.rint(zeros + lowest / scales.astype(np.float64)))
    if abs(start) <= MAX_BASE:
        for divisor in _divisors(spread, scales):
            yield replace(draft, formula=Formula.ASYMMETRIC, divisor=bits(divisor), base=int(start))


def _divisors(sizes: NDArray[np.float64], scales: NDArray[np.float32]) -> list[float]:
    """By how much the sizes seem to have been divided: the exact number of steps where one is near."""
    some = sizes > 0
    if not some.any():
        return []
    seen = middle(sizes[some] / scales[some])
    if not 0 < seen <= float(np.finfo(np.float32).max):
        return []
    exact = [steps for steps in _STEPS if abs(seen / steps - 1) < _NEAR]
    return exact or [seen]
