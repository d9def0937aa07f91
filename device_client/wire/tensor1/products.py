"""Elements of a product of two thin matrices, each the same float32 on every machine.

What an element is: u[r,0] v[0,c] + u[r,1] v[1,c] + ..., each product and each sum rounded, in the order of the rank. Where
all of them are whole multiples of one normal power of two and small enough for float32 to hold, there is nothing to round, and whatever
order or fused multiply and add a machine likes makes the same, but for the sign of a zero: factors of few bits, as they are
written, mostly are like that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from device_client.wire.tensor1.elements import Content

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# So few elements at a time that sums and products stay in the processor's cache.
_AT_ONCE: Final = 1 << 14
# Factors of more elements are not looked at: that takes 20 bytes of memory for each. Nor is it worth it for few products.
_JUDGED_ELEMENTS: Final = 1 << 17
_WORTH: Final = 16
_FLOAT32_BITS: Final = 24
_MANTISSA_BITS: Final = 23
# A product on its own would be infinite beyond these, or rounded, or zero on some machines, and one that is added at once would not.
_LARGEST: Final = (2.0**_FLOAT32_BITS - 1) * 2.0**104
_LEAST_NORMAL: Final = 2.0**-126


@dataclass(frozen=True, slots=True)
class Product:
    """The factors u, from row `top` on, and v; `is_exact` if no sum of theirs has to be rounded."""

    u: NDArray[np.float32]
    v: NDArray[np.float32]
    top: int
    is_exact: bool

    def elements(self, first: int, count: int, *, in_order: bool = True) -> NDArray[np.float32]:
        """Elements `first` to `first + count`, by rows; no others are computed. Unless `in_order`, -0 may have become 0."""
        import numpy as np

        found = np.empty(count, dtype=np.float32)
        columns, at = self.v.shape[1], 0
        while at < count:
            # The rest of a row, whole rows, or the start of one.
            row, start = divmod(first + at, columns)
            rows = 1 if start or count - at < columns else (count - at) // columns
            end = min(columns, start + count - at)
            rows = min(rows, max(1, _AT_ONCE // (end - start)))
            size = rows * (end - start)
            u = self.u[row - self.top : row - self.top + rows]
            part, v = found[at : at + size].reshape(rows, end - start), self.v[:, start:end]
            if self.is_exact and not in_order:
                np.einsum("rk,kc->rc", u, v, out=part)
            else:
                _add_up(u, v, part)
            at += size
        return found


def product_of(parameters: Content, rank: int, columns: int, first: int, count: int) -> Product:
    """For elements `first` to `first + count` of the product that `parameters` are: f32[rank, columns], f32[rows, rank]."""
    import numpy as np

    values = np.frombuffer(parameters, dtype="<f4")
    v = values[: rank * columns].reshape(rank, columns)
    top = first // columns
    u = values[rank * columns :].reshape(-1, rank)[top : -(-(first + count) // columns)]
    is_cheap = u.size + v.size <= min(_JUDGED_ELEMENTS, (rank - 1) * count // _WORTH)
    return Product(u, v, top, is_exact=is_cheap and _is_exact(u, v))


def _add_up(u: NDArray[np.float32], v: NDArray[np.float32], total: NDArray[np.float32]) -> None:
    import numpy as np

    np.multiply(u[:, :1], v[:1], out=total)
    product = np.empty_like(total)
    for index in range(1, len(v)):
        np.multiply(u[:, index : index + 1], v[index : index + 1], out=product)
        total += product


def _is_exact(u: NDArray[np.float32], v: NDArray[np.float32]) -> bool:
    """Whether float32 holds any sum of these products, and of some of them."""
    import numpy as np

    largest = float((np.abs(u).max(axis=0, initial=0).astype(np.float64) * np.abs(v).max(axis=1)).sum())
    step = float((_steps(u).min(axis=0, initial=np.inf) * _steps(v).min(axis=1)).min())
    return step >= _LEAST_NORMAL and largest <= min(_LARGEST, step * 2.0**_FLOAT32_BITS)


def _steps(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The power of two that each number is an odd multiple of, or half of that; of zero, infinity."""
    import numpy as np

    raw = values.view(np.int32)
    mantissa = raw & ((1 << _MANTISSA_BITS) - 1)
    mantissa |= 1 << _MANTISSA_BITS
    mantissa &= -mantissa
    exponent = raw >> _MANTISSA_BITS
    exponent &= 0xFF
    steps: NDArray[np.float64] = np.ldexp(mantissa.astype(np.float64), exponent - (127 + _MANTISSA_BITS))
    steps[values == 0] = np.inf
    return steps
