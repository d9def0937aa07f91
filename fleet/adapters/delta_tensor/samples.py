"""A few runs of a tensor and of what it came from, to try predictors on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from device_client.wire.tensor1.elements import Element, Integers, integers, ordered, reals
from device_client.wire.tensor1.format import Field, Instruction, Kind, Predictor
from device_client.wire.tensor1.io import RandomAccess
from device_client.wire.tensor1.predictors import predict
from device_client.wire.tensor1.transposed import read_by_columns
from fleet.adapters.delta_tensor import residual_coding
from fleet.adapters.delta_tensor.residual_coding import Coding
from fleet.adapters.delta_tensor.tensors import sample_ranges

SAMPLE_ELEMENTS: Final = 16384
# Candidates are compared at a faster level than what is written.
_LEVEL: Final = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """Runs of records, (first, count) each, with the bytes of both files."""

    ranges: tuple[tuple[int, int], ...]
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]
    old_element: Element
    new_element: Element

    def old_reals(self) -> NDArray[np.float32]:
        """The old numbers; whole ones as they are."""
        return _reals(b"".join(self.old), self.old_element)

    def new_reals(self) -> NDArray[np.float32]:
        """The new numbers."""
        return _reals(b"".join(self.new), self.new_element)

    def indices(self) -> NDArray[np.int64]:
        """The number of each element."""
        return np.concatenate([np.arange(first, first + count) for first, count in self.ranges])

    def cost(self, item: Instruction, parameters: bytes, coding: Coding) -> float:
        """Bits an element when `item` predicts; parameters not counted."""
        guesses = [
            predict(item, parameters, content, first, count)[0]
            for content, (first, count) in zip(self.old, self.ranges, strict=True)
        ]
        return self.coded(np.concatenate(guesses), coding)

    def coded(self, guess: Integers | None, coding: Coding) -> float:
        """Bits an element with this guess, or with none."""
        values = ordered(integers(b"".join(self.new), self.new_element), self.new_element)
        differences = values if guess is None else values - guess
        packed = residual_coding.encode(differences, self.new_element, guess, coding, level=_LEVEL)
        return 8.0 * len(packed) / len(values)


def _reals(content: bytes, element: Element) -> NDArray[np.float32]:
    raw = integers(content, element)
    if element.is_float:
        return reals(raw, element)
    whole: Any = raw.view(f"<u{element.width}") if element.name.startswith("U") else raw
    return np.asarray(whole.astype(np.float32))


def take(
    old: RandomAccess,
    new: RandomAccess,
    places: tuple[int, int],
    elements: tuple[Element, Element],
    *,
    count: int,
    inner: int,
    rows: int = 0,
) -> Sample:
    """A sample of `count` elements at these (old, new) offsets, of these (old, new) types.

    With `rows`, the old ones are read by the columns of a matrix of so many rows.
    """
    ranges = tuple(sample_ranges(count, inner, SAMPLE_ELEMENTS))
    contents = [
        tuple(file.read_at(place + first * element.width, length * element.width) for first, length in ranges)
        for file, place, element in zip((old, new), places, elements, strict=True)
    ]
    if rows:
        fields = (Field(elements[1], 1),)
        item = Instruction(
            Kind.DELTA, count * elements[1].width, places[0], Predictor.CAST, fields, elements[0], old_rows=rows
        )
        contents[0] = tuple(read_by_columns(item, first, length, old.read_at) for first, length in ranges)
    return Sample(ranges, contents[0], contents[1], *elements)
