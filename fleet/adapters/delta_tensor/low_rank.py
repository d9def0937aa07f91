"""Differences that are a product of two thin matrices, as a merged LoRA adapter leaves: whether one is, and which.

Everything but the choice of the rank is exact or done element by element, so that the factors, and with them the patch, are
the same whatever BLAS a machine has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.format import MAX_PARAMETER_BYTES, Predictor
from fleet.adapters.delta_tensor.exact_products import Sliced, gram, product, sliced, whitening
from fleet.adapters.delta_tensor.fitting import WINDOW_ELEMENTS, Fit, Pair, middle
from fleet.adapters.delta_tensor.tensors import sample_ranges

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How far a number of each type is from what it was rounded from, at most, as a share of it.
_ROUNDING: Final = {Element.F16: 2.0**-11, Element.BF16: 2.0**-8, Element.F32: 2.0**-24}
_RANKS: Final = (4, 8, 16, 32)
_PATCH_EDGE: Final = 72
_PATCH_RUN: Final = 8
# Longer rows would not fit the memory that an encoder is given; nobody's matrices have them.
_MAX_ROW: Final = 1 << 20
# Differences of so many elements are held in memory; those of more are read for each product.
_HELD_ELEMENTS: Final = 1 << 21
_PASSES: Final = 2
# Bits an element that a product must promise, and which part of those that it will have to save.
_LEAST_SAVED: Final = 0.3
_LIKELY: Final = 0.5
_SEED: Final = 20
_JUDGED_ELEMENTS: Final = 1 << 14
# Bits an element more that a rank must promise, and more than a lower one; a few components are cheap on both sides.
_LEAST_MORE: Final = 0.05
_MORE: Final = 0.6
_CHEAP: Final = 8
# How much less than of noise may be left where what is left counts as noise.
_NOISE: Final = 0.5
# The entropy of a normal distribution in units of its spread.
_NORMAL_BITS: Final = 2.05
# Of a normal distribution, and what keeps a component of zeros from being divided by.
_MEDIAN_TO_SPREAD: Final = 1.4826
_TINY: Final = 1e-30
# The square of `_ROUNDING` of a number over the mean square of rounding, on average over an octave.
_OVER_MEAN: Final = 6.5
# How much coarser than theory says factors are rounded, as variances: where more is left than rounding has made, it has a few
# large numbers that the median does not show; and where the rounding of the new numbers is all that is left, that is no cost.
_COARSER: Final = 16.0
_FINER: Final = 0.5
# Of what is left, the share that rounding made: from this on, it is a product and nothing else.
_MOSTLY_ROUNDING: Final = 0.35


def products(pair: Pair, wanted: float) -> Iterator[Fit]:
    """The product of the rank that promises most, if one does: some of the `wanted` bits an element that it must save."""
    inner, rows = pair.inner, pair.rows
    if min(inner, rows) < 2 * _PATCH_EDGE // 3 or inner > _MAX_ROW or rows * inner != pair.count:
        return
    with np.errstate(all="ignore"):
        rank = _rank(pair, max(_LEAST_SAVED, _LIKELY * wanted))
        if rank is None or 4 * rank * (rows + inner) > MAX_PARAMETER_BYTES:
            return
        difference = _Difference(pair)
        u, v = _subspaces(difference, rank)
        factors = _rounded(difference, u, v, _variance(pair, u, v))
    yield Fit(Predictor.LOW_RANK, (rank, inner), b"".join(part.astype("<f4").tobytes() for part in factors))


class _Difference:
    """The difference of two tensors as a matrix that is multiplied, in windows of rows."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        # Sums run along a row, or along the rows of a window.
        self._length = max(pair.inner, WINDOW_ELEMENTS // pair.inner)
        # What 16 bits cannot tell is not worth a second slice.
        self._slices = 2 if pair.new_element is Element.F32 else 1
        self.inner = pair.inner
        self._held = list(self._read()) if pair.count <= _HELD_ELEMENTS else None

    def _read(self) -> Iterator[tuple[int, Sliced]]:
        inner = self._pair.inner
        for first, before, after in self._pair.windows(inner):
            # float32 holds what there is of the difference of numbers of 16 bits.
            values = after - before if self._slices == 1 else after.astype(np.float64) - before
            yield first // inner, sliced(values.reshape(-1, inner), self._length, self._slices)

    def _parts(self) -> Iterator[tuple[int, Sliced]]:
        return self._read() if self._held is None else iter(self._held)

    def times(self, right: NDArray[np.float64], slices: int) -> NDArray[np.float64]:
        """D times thin columns."""
        factor = sliced(right, self._length, slices)
        return np.concatenate([product(part, factor) for _, part in self._parts()])

    def turned_times(self, left: NDArray[np.float64]) -> NDArray[np.float64]:
        """D by its columns, times thin columns."""
        total = np.zeros((self._pair.inner, left.shape[1]))
        for top, part in self._parts():
            total += product(part.transposed, sliced(left[top : top + len(part.slices[0])], self._length, 1))
        return total


def _subspaces(difference: _Difference, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """U of orthonormal columns and V, of which U V' is nearly the best product: by iterating on subspaces, from random ones.

    The randomness is a constant, so the patch is deterministic.
    """
    dice = np.random.default_rng(_SEED)
    v: NDArray[np.float64] = np.where(dice.integers(0, 2, (difference.inner, rank)) > 0, 1.0, -1.0)
    for _ in range(_PASSES - 1):
        v = difference.turned_times(_orthonormal(difference.times(v, 1)))
    u = _orthonormal(difference.times(v, 1))
    return u, difference.turned_times(u)


def _orthonormal(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    rank = columns.shape[1]
    return product(sliced(columns, rank), sliced(whitening(gram(columns)), rank))


def _variance(pair: Pair, u: NDArray[np.float64], v: NDArray[np.float64]) -> float:
    """To what square of an element's error rounding is to be compared: that of what a typical one lacks after the product.

    Judged by some rows; those without any change lack nothing.
    """
    found, rounding = [np.zeros(0)], 0.0
    for top, count in sample_ranges(pair.rows, 1, max(8, _JUDGED_ELEMENTS // pair.inner)):
        first, length = top * pair.inner, count * pair.inner
        after = pair.new_run(first, length).reshape(-1, pair.inner)
        made = np.subtract(after, pair.old_run(first, length).reshape(-1, pair.inner), dtype=np.float64)
        changed = made.any(axis=1)
        found.append((made - u[top : top + count] @ v.T)[changed].reshape(-1))
        rounding += float(np.square(after[changed] * _ROUNDING[pair.new_element], dtype=np.float64).sum()) / _OVER_MEAN
    left = np.concatenate(found)
    if not len(left):
        return 0.0
    typical = (_MEDIAN_TO_SPREAD * middle(np.abs(left))) ** 2
    return typical * (_FINER if rounding >= _MOSTLY_ROUNDING * float((left * left).sum()) else _COARSER)


def _rounded(
    difference: _Difference, u: NDArray[np.float64], v: NDArray[np.float64], variance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """V' and U as multiples of powers of two, each component's as coarse as pays; U is what fits the rounded V best.

    One more bit for all P parameters makes the error that their rounding brings to N elements a quarter as large. That pays
    down to a share of P / N of the variance that is left anyway, evenly divided among the rank's 2 r factors.
    """
    rank = v.shape[1]
    error = variance * min(0.5, (u.size + v.size) / (len(u) * len(v))) / (2 * rank)
    if not error > 0:
        return v.T, u
    # Rounding to a step leaves a twelfth of its square, times the other factor's.
    steps = [
        2.0 ** np.rint(0.5 * np.log2(12 * error) - np.log2(np.sqrt((other * other).mean(axis=0)) + _TINY))
        for other in (u, v)
    ]
    v = np.rint(v / steps[0]) * steps[0]
    triangle = sliced(whitening(gram(v)), rank)
    inverse = product(triangle, triangle.transposed)
    u = product(sliced(difference.times(v, 2), rank), sliced(inverse, rank))
    return v.T, np.rint(u / steps[1]) * steps[1]


def _rank(pair: Pair, saved: float) -> int | None:
    """The rank that would save most, judged by a square cut out of the difference; None if none saves more than `saved`."""
    inner, rows = pair.inner, pair.rows
    edge = min(_PATCH_EDGE, inner, rows)
    # Rows of the cut come in a few runs, as far as those are short, and share their columns, from the middle of the matrix.
    start = (inner - edge) // 2
    run = max(1, min(_PATCH_RUN, WINDOW_ELEMENTS // inner))
    counts = [min(run, edge - top) for top in range(0, edge, run)]
    runs = [
        ((rows - count) * top // max(1, edge - count), count)
        for top, count in zip(range(0, edge, run), counts, strict=True)
    ]
    made = pair.new_rows(runs, start, edge).astype(np.float64)
    rounding = np.sqrt(np.einsum("ij,ij->i", made, made)) * _ROUNDING[pair.new_element]
    return _saving_rank(made - pair.old_rows(runs, start, edge), rounding, pair, saved)


def _is_noise(values: NDArray[np.float64]) -> bool:
    """Whether what is left is spread over its components as noise is: without its larger half, as much of it is left."""
    energy = values**2
    half = len(values) // 2
    return bool(energy[half:].sum() > _NOISE * _left_of_noise(half / len(values)) * energy.sum())


def _left_of_noise(share: float) -> float:
    """Of a square of noise, the part of its energy that is left without this share of its components, the largest ones.

    Singular values of noise are distributed by a quarter of a circle (Marchenko and Pastur, 1967); `angles` are their arcsines.
    """
    angles = np.linspace(0, np.pi / 2, 257)
    smaller = (2 * angles + np.sin(2 * angles)) / np.pi
    return float(np.interp(1 - share, smaller, (2 * angles - np.sin(4 * angles) / 2) / np.pi))


def _saving_rank(cut: NDArray[np.float64], rounding: NDArray[np.float64], pair: Pair, saved: float) -> int | None:
    sizes = np.sqrt(np.einsum("ij,ij->i", cut, cut))
    # Rows that nothing but rounding has changed are of no rank, and would look as if one more component each paid.
    changed = sizes > 2 * rounding
    if np.count_nonzero(changed) < len(cut) // 4:
        return None
    # Rows count alike: a few large ones among many small ones are sparse, not of low rank.
    values = np.linalg.svd(cut[changed] / sizes[changed, None], compute_uv=False)
    energy = float((values**2).sum())
    best = None
    inner, rows = pair.inner, pair.rows
    # What training leaves has a few large components and many small ones, which 16 bits bury among their rounding: they cost
    # CPU on both sides and save nothing. What a merged adapter leaves has nothing beside.
    rounds = pair.new_element is not Element.F32
    for rank in _RANKS:
        if rank >= len(values) // 2:
            break
        # Taking the largest of noise's own components flatters; what is left is scaled back up.
        left = float((values[rank:] ** 2).sum()) / _left_of_noise(rank / len(values))
        bits = 0.5 * np.log2(energy / max(left, energy * 2.0**-40))
        # What `_rounded` will make of the factors: a normal number's entropy, at steps that follow from what is left.
        parameters = rank * (rows + inner) / (rows * inner)
        cost = parameters * (max(0.0, bits - 0.5 * np.log2(6 * parameters)) + _NORMAL_BITS)
        gain = min(bits, 8.0 * pair.new_element.width) - cost
        if gain > saved + (_LEAST_MORE if best is None else _MORE) and (
            rank <= _CHEAP or not rounds or _is_noise(values[rank:])
        ):
            best, saved = rank, gain
    return best
