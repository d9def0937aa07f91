"""How large the differences of a run are, before they are read: classes of half octaves, for groups or for rows and columns.

A run's classes are written in front of it:

    0                                                           none
    shift u8 (4 to 12), varint length, deflated u8 a group      groups of 2**shift
    GRID u8, varint columns, varint phase,
        varint length, deflated u8 a row and i8 a column        rows and columns

Groups and rows of class 0 are all zero and left out. A grid is the run as rows of so many columns, of which the first element has
number `phase`; what it expects of an element is the sum of its row's and its column's class, as if magnitudes were a
product of both, which updates of layers nearly are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from device_client.wire.tensor1.errors import PatchPayloadError
from device_client.wire.tensor1.format import Cursor, deflate, inflate, pack_varint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_GROUP_SHIFT: Final = 4
MAX_GROUP_SHIFT: Final = 12
GRID: Final = 255
MAX_COLUMN_CLASS: Final = 64


@dataclass(frozen=True, slots=True)
class Groups:
    """Classes of groups of `2**shift` of `count` elements; the last group is filled up with zeros."""

    count: int
    shift: int
    classes: NDArray[np.uint8]

    @property
    def kept(self) -> int:
        """How many elements are not left out, the filling included."""
        import numpy as np

        return int(np.count_nonzero(self.classes)) << self.shift

    def gather(self, values: Any) -> Any:
        """Those that are not left out, of all."""
        import numpy as np

        rest = -self.count % (1 << self.shift)
        padded = np.concatenate([values, np.zeros(rest, dtype=values.dtype)]) if rest else values
        return padded.reshape(-1, 1 << self.shift)[self.classes > 0].reshape(-1)

    def spread(self, values: Any) -> Any:
        """All, of those that are not left out."""
        import numpy as np

        whole = np.zeros((len(self.classes), 1 << self.shift), dtype=values.dtype)
        whole[self.classes > 0] = values.reshape(-1, 1 << self.shift)
        return whole.reshape(-1)[: self.count]

    def lowered(self, contexts: NDArray[np.int16]) -> NDArray[np.int16]:
        """The contexts of those that are not left out, less their classes."""
        import numpy as np

        grouped: NDArray[np.int16] = self.gather(contexts).reshape(-1, 1 << self.shift)
        grouped = grouped - self.classes[self.classes > 0].astype(np.int16)[:, None]
        return grouped.reshape(-1)

    def pack(self) -> bytes:
        """As it is written."""
        packed = deflate(self.classes.tobytes())
        return bytes((self.shift,)) + pack_varint(len(packed)) + packed


@dataclass(frozen=True, slots=True)
class Grid:
    """Classes of rows and columns of `count` elements, which begin `phase` elements into the first row."""

    count: int
    phase: int
    rows: NDArray[np.uint8]
    columns: NDArray[np.int8]

    @property
    def kept(self) -> int:
        """How many elements are not left out."""
        import numpy as np

        mask = self._mask()
        return self.count if mask is None else int(np.count_nonzero(mask))

    def gather(self, values: Any) -> Any:
        """Those that are not left out, of all."""
        mask = self._mask()
        return values if mask is None else values[mask]

    def spread(self, values: Any) -> Any:
        """All, of those that are not left out."""
        import numpy as np

        mask = self._mask()
        if mask is None:
            return values
        whole = np.zeros(self.count, dtype=values.dtype)
        whole[mask] = values
        return whole

    def lowered(self, contexts: NDArray[np.int16]) -> NDArray[np.int16]:
        """The contexts of those that are not left out, less their classes."""
        import numpy as np

        expected = self.rows.astype(np.int16)[:, None] + self.columns.astype(np.int16)
        lowered = contexts - expected.reshape(-1)[self.phase : self.phase + self.count]
        found: NDArray[np.int16] = self.gather(lowered)
        return found

    def pack(self) -> bytes:
        """As it is written."""
        packed = deflate(self.rows.tobytes() + self.columns.tobytes())
        head = bytes((GRID,)) + pack_varint(len(self.columns)) + pack_varint(self.phase)
        return head + pack_varint(len(packed)) + packed

    def _mask(self) -> NDArray[np.bool_] | None:
        import numpy as np

        some = self.rows > 0
        if some.all():
            return None
        return np.repeat(some, len(self.columns))[self.phase : self.phase + self.count]


Classes: TypeAlias = Groups | Grid


def read(cursor: Cursor, count: int) -> Classes | None:
    """The classes of a run of `count` differences, or None; raises `PatchPayloadError`."""
    import numpy as np

    shift = cursor.take(1)[0]
    if not shift:
        return None
    if shift == GRID:
        return _read_grid(cursor, count)
    if not MIN_GROUP_SHIFT <= shift <= MAX_GROUP_SHIFT:
        raise PatchPayloadError(f"expected groups of 2**{MIN_GROUP_SHIFT} to 2**{MAX_GROUP_SHIFT}, got 2**{shift}")
    content = inflate(cursor.take(cursor.varint()), -(-count >> shift), PatchPayloadError)
    return Groups(count, shift, np.frombuffer(content, dtype=np.uint8))


def _read_grid(cursor: Cursor, count: int) -> Grid:
    import numpy as np

    columns, phase = cursor.varint(), cursor.varint()
    if not 1 <= columns <= count or phase >= columns:
        raise PatchPayloadError(f"expected at most {count} columns and a phase below, got {columns} and {phase}")
    rows = -(-(phase + count) // columns)
    content = inflate(cursor.take(cursor.varint()), rows + columns, PatchPayloadError)
    found = np.frombuffer(content, dtype=np.int8, offset=rows)
    if int(found.min()) < -MAX_COLUMN_CLASS or int(found.max()) > MAX_COLUMN_CLASS:
        raise PatchPayloadError(f"expected classes of columns of at most {MAX_COLUMN_CLASS}, got more")
    return Grid(count, phase, np.frombuffer(content, dtype=np.uint8, count=rows), found)
