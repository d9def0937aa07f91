"""Products of matrices that come out the same on every machine, whatever its BLAS adds up first.

Numbers are cut into slices so short that float64 holds every product and every sum of them: there is nothing to round until
slices are added, element by element. This is the error-free transformation of Ozaki, Ogita, Oishi and Rump (2012).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOAT64_BITS: Final = 53
_FLOAT32_BITS: Final = 24
_FLOAT32_EXPONENT: Final = 100
# Slices of smaller numbers than these would be no normal ones.
_TINIEST: Final = 2.0**-900
# Below this share of the largest one, what is left of a column is what sums of others left.
_DEPENDENT: Final = 2.0**-36


@dataclass(frozen=True, slots=True)
class Sliced:
    """A matrix as the sum of one or two, each of whole multiples of a power of two."""

    slices: tuple[NDArray[np.float64], ...]

    @property
    def transposed(self) -> Sliced:
        """The same by columns."""
        return Sliced(tuple(part.T for part in self.slices))


def sliced(values: NDArray[np.floating], length: int, count: int = 2) -> Sliced:
    """`values` with `count` slices, for products that add up at most `length` numbers.

    Each slice has half of the bits that 53 less those of `length` are: 20 or more up to 8,192 numbers, and 24 at most, which
    float32 holds too.
    """
    bits = min(_FLOAT32_BITS, (_FLOAT64_BITS - max(1, length - 1).bit_length()) // 2)
    largest = max(float(values.max()), -float(values.min())) if values.size else 0.0
    if not _TINIEST < largest < np.inf:
        return Sliced((np.zeros(values.shape),))
    exponent = int(np.frexp(largest)[1]) - bits
    if abs(exponent) > _FLOAT32_EXPONENT:
        values = values.astype(np.float64)
    parts: list[NDArray[np.floating]] = []
    for index in range(count):
        if index:
            values = values - parts[-1]
            exponent -= bits
        part = values * 2.0**-exponent
        np.rint(part, out=part)
        part *= 2.0**exponent
        parts.append(part)
    return Sliced(tuple(part.astype(np.float64, copy=False) for part in parts))


def product(left: Sliced, right: Sliced) -> NDArray[np.float64]:
    """The product; that of two second slices is too small to count."""
    total: NDArray[np.float64] = left.slices[0] @ right.slices[0]
    for part in right.slices[1:]:
        total += left.slices[0] @ part
    for part in left.slices[1:]:
        total += part @ right.slices[0]
    return total


def gram(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The products of all columns with each other."""
    parts = sliced(columns, len(columns))
    return product(parts.transposed, parts)


def whitening(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """The triangle T by which columns of these products become orthonormal; it drops those that depend on others before.

    By Cholesky's decomposition, element by element.
    """
    count = len(products)
    rest = products.copy()
    inverse = np.eye(count)
    least = _DEPENDENT * float(np.diagonal(products).max(initial=0.0))
    for index in range(count):
        pivot = float(rest[index, index])
        if not pivot > least:
            inverse[index] = 0.0
            continue
        column = rest[index] / np.sqrt(pivot)
        column[:index] = 0.0
        rest -= column[:, None] * column
        inverse[index] /= column[index]
        inverse[index + 1 :] -= column[index + 1 :, None] * inverse[index]
    return inverse.T
