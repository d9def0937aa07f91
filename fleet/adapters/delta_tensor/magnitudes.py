"""The writing side of `device_client.wire.tensor1.classes`: which classes of magnitude are worth their bytes for a run.

Judged by what they should save, not by coding with each: how far logarithms of means lie below the logarithm of the mean is
how many bits an element saves that is told its magnitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from device_client.wire.tensor1.classes import MAX_COLUMN_CLASS, Classes, Grid, Groups
from device_client.wire.tensor1.elements import Integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIN_GROUPED: Final = 1024
# Sizes of groups that are tried: for a mask of zeros, and for magnitudes, where 64 beat 128 by 1-2% on float16 and
# bfloat16. How many groups tell anything.
_MASK_SHIFTS: Final = (7, 5)
_CLASS_SHIFT: Final = 6
_MIN_CLASSED: Final = 16
_MIN_SIDE: Final = 16
# Bits an element that magnitude classes must promise, beyond what writing them takes.
_MIN_CLASS_GAIN: Final = 0.012
# Classes are half octaves, centred so that a mean difference of one unit at exponent 0 is class 24 of 1 to 255.
_CLASS_CENTRE: Final = 96
# Rows with a smaller share of changes than this hardly changed; how many half octaves keep their contexts apart from the others'.
_SPARSE: Final = 0.1
_MAX_SPAN: Final = 64


@dataclass(frozen=True, slots=True)
class Candidate:
    """Classes, or none, and the bits that writing them takes."""

    classes: Classes | None
    written_bits: float


def candidates(
    differences: Integers, scale: NDArray[np.int16] | None, shape: tuple[int, int] | None
) -> list[Candidate]:
    """What may save most: first a mask of what is zero, or nothing; then classes of magnitude that promise enough.

    `scale` has the guesses' exponents. A promise supposes that differences scale with magnitudes whatever the numbers are
    that they are added to, which rounding to 16 bits makes less true: more than one candidate is to be compared.
    """
    if len(differences) < _MIN_GROUPED:
        return [Candidate(None, 0.0)]
    found = [_mask(differences)]
    if scale is None:
        return found
    top = int(scale.max())
    # 2.0 to the power of the exponent less the highest one, as bits.
    biased = scale - (top - 127)
    units = np.maximum(biased, 127 - 40, out=biased).astype(np.int32)
    units <<= 23
    sizes = differences.astype(np.float32)
    np.abs(sizes, out=sizes)
    sizes *= units.view(np.float32)
    # Where most differences are zero, knowing the magnitude saves less than the gap.
    density = min(1.0, 2.0 * float(np.count_nonzero(differences)) / len(differences))
    span = min(2 * (top - int(scale.min())), _MAX_SPAN)
    promised = [_groups(sizes, density)]
    if shape is not None and (rows := _matrix(sizes, *shape)) is not None:
        promised.append(_grid(rows, len(sizes), shape[1], density))
        strata = _strata(rows, len(sizes), shape[1], span)
        found += [strata] if strata is not None else []
    return found + [item for item, gain in promised if item is not None and gain > _MIN_CLASS_GAIN]


def at(classes: Classes, places: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int16]]:
    """Which elements, given by their numbers in the run, are not left out, and the classes of all of them."""
    if isinstance(classes, Groups):
        found = classes.classes[places >> classes.shift]
        return found > 0, found.astype(np.int16)
    rows, columns = np.divmod(places + classes.phase, len(classes.columns))
    of_row = classes.rows[rows]
    return of_row > 0, of_row.astype(np.int16) + classes.columns[columns]


def _mask(differences: Integers) -> Candidate:
    """Which groups have anything but zeros, in groups of the size that saves most, or nothing."""
    changed = int(np.count_nonzero(differences))
    plain = len(differences) * _entropy(changed / len(differences))
    best, cheapest = Candidate(None, 0.0), 0.98 * plain - 64
    for shift in _MASK_SHIFTS:
        group = _any(differences, shift)
        kept = int(np.count_nonzero(group)) << shift
        written = len(group) * _entropy(kept / (len(group) << shift))
        price = written + kept * _entropy(changed / kept)
        if price < cheapest:
            best, cheapest = Candidate(Groups(len(differences), shift, group.astype(np.uint8)), written), price
    return best


def _any(differences: Integers, shift: int) -> NDArray[np.bool_]:
    """Which groups have anything but zeros. Halving words is three times as fast as numpy's own `any` along an axis."""
    words = _padded(np.ascontiguousarray(differences), shift).view(np.uint64)
    for _ in range(shift - 3 + (differences.itemsize.bit_length() - 1)):
        words = words[0::2] | words[1::2]
    return np.asarray(words != 0)


def _entropy(share: float) -> float:
    """Bits that it takes to say which of two things happened."""
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share) if 0 < share < 1 else 0.0


def _groups(sizes: NDArray[np.float32], density: float) -> tuple[Candidate | None, float]:
    """Classes of groups' mean differences as real numbers, and the bits an element that they promise to save."""
    shift = _CLASS_SHIFT
    means = _sums(_padded(sizes, shift).reshape(-1, 1 << shift)) / (1 << shift)
    some = means > 0
    if np.count_nonzero(some) < _MIN_CLASSED:
        return None, 0.0
    logs = np.log2(means[some])
    # By how much groups differ: Jensen's gap, less what the scatter of a mean of this many makes of it alone.
    gap = float(np.log2(means[some].mean()) - logs.mean()) - 1.0 / (1 << shift)
    classes = np.zeros(len(some), dtype=np.uint8)
    classes[some] = _row_classes(logs)
    written = _written_bits(classes)
    return Candidate(Groups(len(sizes), shift, classes), written), gap * density - written / len(sizes)


def _matrix(sizes: NDArray[np.float32], columns: int, phase: int) -> NDArray[np.float32] | None:
    """The run as rows of a matrix, of which the first and the last may be filled up with zeros; None for a few long or short ones."""
    rows = -(-(phase + len(sizes)) // columns)
    if min(rows, columns) < _MIN_SIDE:
        return None
    whole = np.zeros(rows * columns, dtype=np.float32)
    whole[phase : phase + len(sizes)] = sizes
    return whole.reshape(rows, columns)


def _strata(matrix: NDArray[np.float32], count: int, phase: int, span: int) -> Candidate | None:
    """Rows in two classes whose contexts are apart, those that changed and those that hardly did; None where all rows changed, or none did.

    What hardly changed, such as a weight that was decayed and then rounded to 16 bits, is now and then one place off, whatever
    its exponent: no size is to be expected there.
    """
    counts = _sums((matrix != 0).astype(np.float32))
    changed, dense = counts > 0, counts >= _SPARSE * matrix.shape[1]
    if dense.all() or not dense.any():
        return None
    classes = np.zeros(len(matrix), dtype=np.uint8)
    classes[changed] = 1
    classes[dense] = span + 2
    return Candidate(Grid(count, phase, classes, np.zeros(matrix.shape[1], np.int8)), _written_bits(classes))


def _grid(matrix: NDArray[np.float32], count: int, phase: int, density: float) -> tuple[Candidate | None, float]:
    """Classes of rows and columns, and the bits an element that they promise to save."""
    rows, columns = matrix.shape
    lengths = np.full(rows, columns, dtype=np.float64)
    lengths[0] -= phase
    lengths[-1] -= rows * columns - phase - count
    by_row = _sums(matrix) / lengths
    some = by_row > 0
    weights = np.where(some, 1.0 / np.where(some, by_row, 1.0), 0.0)
    by_column = np.einsum("ij,i->j", matrix, weights.astype(np.float32)).astype(np.float64) / np.count_nonzero(some)
    if not by_column.any():
        return None, 0.0
    by_column = np.maximum(by_column, float(by_column.max()) * 2.0**-16)
    logs, column_logs = np.log2(by_row[some]), np.log2(by_column)
    share = lengths[some] / lengths[some].sum()
    mean = float((by_row[some] * share).sum())
    gap = math.log2(mean) - float((logs * share).sum()) - float(column_logs.mean())
    classes = np.zeros(rows, dtype=np.uint8)
    classes[some] = _row_classes(logs)
    halves = np.clip(np.rint(2.0 * column_logs), -MAX_COLUMN_CLASS, MAX_COLUMN_CLASS).astype(np.int8)
    # A column's mean is of as many as there are rows, and scatters accordingly; rows have more.
    gain = (gap - 1.0 / float(np.count_nonzero(some)) - 1.0 / columns) * density
    written = _written_bits(classes) + _written_bits(halves.view(np.uint8))
    return Candidate(Grid(count, phase, classes, halves), written), gain - written / count


def _row_classes(logs: NDArray[np.float64]) -> NDArray[np.uint8]:
    halves = np.rint(2.0 * logs)
    classes: NDArray[np.uint8] = np.clip(halves - halves.max() + _CLASS_CENTRE, 1, 255).astype(np.uint8)
    return classes


def _written_bits(classes: NDArray[np.uint8]) -> float:
    counts = np.bincount(classes)
    counts = counts[counts > 0]
    return float((counts * (math.log2(len(classes)) - np.log2(counts))).sum())


def _sums(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each row; a fifth of the time that numpy's own `sum` along an axis takes."""
    sums: NDArray[np.float32] = np.einsum("ij->i", matrix)
    return sums.astype(np.float64)


def _padded(values: Any, shift: int) -> Any:
    rest = -len(values) % (1 << shift)
    return np.concatenate([values, np.zeros(rest, dtype=values.dtype)]) if rest else values
