"""Tensors as the encoder sees them: which numbers they are made of, which old one a new one comes from, and samples of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.format import MAX_FIELDS, MAX_RECORD_BYTES, Field
from device_client.wire.tensor1.io import RandomAccess
from fleet.adapters.delta_tensor.sketches import Sketches, sketch
from fleet.domain.layouts import Dtype, Layout, Segment

_ELEMENTS: Final = {
    Dtype.FLOAT64: Element.F64,
    Dtype.FLOAT32: Element.F32,
    Dtype.FLOAT16: Element.F16,
    Dtype.BFLOAT16: Element.BF16,
    Dtype.COMPLEX64: Element.F32,
    Dtype.COMPLEX128: Element.F64,
    Dtype.INT64: Element.I64,
    Dtype.INT32: Element.I32,
    Dtype.INT16: Element.I16,
    Dtype.INT8: Element.I8,
    Dtype.UINT64: Element.U64,
    Dtype.UINT32: Element.U32,
    Dtype.UINT16: Element.U16,
    Dtype.UINT8: Element.U8,
}
# What quantisation tools add to the name of a tensor.
_SUFFIX: Final = re.compile(r"([._](de)?quanti[sz]ed|[._]q(uant)?[248]?|[._](fp|bf)?(16|32)|_cast)+$")
_PROBES: Final = 4
_PROBE_BYTES: Final = 256
# Of so many of one shape and type all are probed; of more, those with the likeliest sketches.
_ALL_PROBED: Final = 32
_LIKELY: Final = 8
# Distances of probes, 0 for equal and about 1 for unrelated ones: of versions of one tensor, and of one that was rounded.
_ALIKE: Final = 0.35
_ROUNDED: Final = 0.01
# Below this a tensor with the right name is taken for the right one.
_MIN_DOUBTED: Final = 4096
_FEW: Final = 64
_MATRIX: Final = 2
# Rows and columns of a matrix whose crossings are compared, and how alike numbers must be for one to be made of the other.
_GRID: Final = 16
_CORRELATED: Final = 0.8
_SHORT_ROW_BYTES: Final = 8192
# Of more matrices of one shape, which nobody's conversion has renamed, none is looked for by its columns.
_MAX_TURNED: Final = 4096
_FLOATS: Final = frozenset({Dtype.FLOAT32, Dtype.FLOAT16, Dtype.BFLOAT16})
_QUANTISED: Final = frozenset({Dtype.INT8, Dtype.UINT8})


@dataclass(frozen=True, slots=True)
class Tensor:
    """A segment and the records that it consists of; `fields` of one element of count 1 is a plain tensor."""

    segment: Segment
    fields: tuple[Field, ...]

    @property
    def element(self) -> Element | None:
        """What a plain tensor is made of."""
        return self.fields[0].element if len(self.fields) == 1 and self.fields[0].count == 1 else None

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        return sum(field.length for field in self.fields)

    @property
    def count(self) -> int:
        """How many records."""
        return self.segment.length // self.record_bytes

    @property
    def inner(self) -> int:
        """Elements of a row: all but the first dimension."""
        rows = self.segment.shape[0] if self.segment.shape else 1
        return max(1, self.count // max(1, rows))


def tensor_of(segment: Segment) -> Tensor:
    """What a segment's numbers are; those narrower than a byte are taken for bytes."""
    if segment.blocks is not None:
        fields = tuple(
            Field(_ELEMENTS.get(field.dtype, Element.U8), field.count)
            if field.dtype in _ELEMENTS
            else Field(Element.U8, field.length)
            for field in segment.blocks.fields
        )
        record = sum(field.length for field in fields)
        fits = record == segment.blocks.length and len(fields) <= MAX_FIELDS and record <= MAX_RECORD_BYTES
        return Tensor(segment, fields if fits else (Field(Element.U8, 1),))
    element = _ELEMENTS.get(segment.dtype, Element.U8)
    if segment.length % element.width:
        element = Element.U8
    return Tensor(segment, (Field(element, 1),))


def base_name(name: str) -> str:
    """A tensor's name without what a conversion added to it."""
    return _SUFFIX.sub("", name)


class Pairing:
    """Finds the old tensor of a new one: by name, by what the name is without its suffixes, else by what it holds."""

    def __init__(self, old: RandomAccess, layout: Layout) -> None:
        self._old = old
        self._by_name: dict[str, list[Segment]] = {}
        self._by_base: dict[str, list[Segment]] = {}
        self._by_count: dict[tuple[Dtype, int], list[Segment]] = {}
        self._by_shape: dict[tuple[int, ...], list[Segment]] = {}
        for segment in layout.segments:
            self._by_name.setdefault(segment.name, []).append(segment)
            self._by_base.setdefault(base_name(segment.name), []).append(segment)
            self._by_count.setdefault((segment.dtype, segment.elements), []).append(segment)
            if segment.dtype in _FLOATS:
                self._by_shape.setdefault(squeezed(segment.shape), []).append(segment)
        self._used: set[int] = set()
        # Where new tensors lie of which their numbers say whether they are the old ones by columns.
        self._turned: dict[int, bool] = {}
        self._sketches: dict[tuple[Dtype, int], Sketches] = {}
        self._grids: dict[tuple[int, ...], Sketches] = {}

    def match(self, new: RandomAccess, segment: Segment) -> Segment | None:
        """The old tensor that predicts this one best, or None."""
        found = self._named(segment)
        if found is None or not self._is_likely(new, segment, found):
            # Exporters number nameless weights, and number them otherwise the next time.
            found = self._alike(new, segment) or self._converted(new, segment) or found or self._cast_of(new, segment)
        if found is not None:
            self._used.add(found.offset)
        return found

    def is_turned(self, segment: Segment, found: Segment) -> bool:
        """Whether a new tensor is its old one by columns, as far as is known; a square one that was not looked at is not."""
        is_square = squeezed(segment.shape) == squeezed(found.shape)
        return self._turned.get(segment.offset, not is_square and is_transposed(found, segment))

    def _is_likely(self, new: RandomAccess, segment: Segment, found: Segment) -> bool:
        """Whether what bears the same name holds like numbers; taken for granted where that is not to be seen at once."""
        if segment.length < _MIN_DOUBTED or (found.dtype, found.shape) != (segment.dtype, segment.shape):
            return True
        tensor = tensor_of(segment)
        return _distance(_probes(new, segment, tensor), _probes(self._old, found, tensor)) < _ALIKE

    def _named(self, segment: Segment) -> Segment | None:
        if not segment.name:
            return None
        for candidates in (self._by_name.get(segment.name, ()), self._by_base.get(base_name(segment.name), ())):
            fitting = [item for item in candidates if fits(item, segment)]
            if len(fitting) == 1:
                return fitting[0]
            exact = [item for item in fitting if (item.dtype, item.shape) == (segment.dtype, segment.shape)]
            if exact:
                return exact[0]
            if fitting:
                return fitting[0]
        return None

    def _alike(self, new: RandomAccess, segment: Segment) -> Segment | None:
        """Of the old tensors of this size and type, the one whose probes are nearest; unused ones win ties."""
        if segment.length < 2 * _PROBE_BYTES:
            return None
        candidates = self._likely(new, segment, segment.dtype)
        if not candidates:
            return None
        tensor = tensor_of(segment)
        wanted = _probes(new, segment, tensor)
        best, nearest = None, _ALIKE
        for item in sorted(candidates, key=lambda item: item.offset in self._used):
            distance = _distance(wanted, _probes(self._old, item, tensor))
            if distance < nearest:
                best, nearest = item, distance
        if best is not None:
            self._turned[segment.offset] = False
        return best

    def _cast_of(self, new: RandomAccess, segment: Segment) -> Segment | None:
        """The floats of another type that these ones were rounded from, whatever they were called."""
        if segment.dtype not in _FLOATS or segment.length < 2 * _PROBE_BYTES:
            return None
        wanted = _few(new, segment)
        for dtype in sorted(_FLOATS - {segment.dtype}):
            for item in self._likely(new, segment, dtype):
                if _distance(wanted, _few(self._old, item)) < _ROUNDED:
                    return item
        return None

    def _converted(self, new: RandomAccess, segment: Segment) -> Segment | None:
        """The matrix of floats that this one is by columns, or quantised, whatever either was called."""
        shape = squeezed(segment.shape)
        is_float = segment.dtype in _FLOATS
        if len(shape) != _MATRIX or min(shape) < _GRID or not (is_float or segment.dtype in _QUANTISED):
            return None
        wanted = _grid(new, segment)
        # Floats that lie as they did are found by probes.
        for turned in (True,) if is_float else (False, True):
            key = shape[::-1] if turned else shape
            candidates = self._by_shape.get(key, ())
            if not 0 < len(candidates) <= _MAX_TURNED:
                continue
            if key not in self._grids:
                self._grids[key] = Sketches([sketch(_grid(self._old, item).reshape(-1)) for item in candidates])
            cells = (wanted.T if turned else wanted).reshape(-1)
            for number in self._grids[key].nearest(sketch(cells), 2):
                if _correlation(cells, _grid(self._old, candidates[number]).reshape(-1)) > _CORRELATED:
                    if turned and is_float:
                        self._turned[segment.offset] = True
                    return candidates[number]
        return None

    def _likely(self, new: RandomAccess, segment: Segment, dtype: Dtype) -> Sequence[Segment]:
        """The old tensors with so many elements of that type, or those whose sketches say that they may be what is looked for."""
        key = (dtype, segment.elements)
        candidates = self._by_count.get(key, [])
        if len(candidates) <= _ALL_PROBED:
            return candidates
        if key not in self._sketches:
            self._sketches[key] = Sketches([sketch(_few(self._old, item)) for item in candidates])
        return [candidates[number] for number in self._sketches[key].nearest(sketch(_few(new, segment)), _LIKELY)]


def fits(old: Segment, new: Segment) -> bool:
    """Whether numbers of `old` can predict those of `new`: same shape, transposed, or rows were added or taken away."""
    if old.blocks != new.blocks:
        # Floats may have been packed into blocks.
        return old.blocks is None and old.shape == new.shape
    return (
        old.shape == new.shape
        or is_transposed(old, new)
        or (old.dtype == new.dtype and len(old.shape) == len(new.shape) > 0 and old.shape[1:] == new.shape[1:])
    )


def is_transposed(old: Segment, new: Segment) -> bool:
    """Whether `new` may be the matrix `old` by columns. A square one may be both."""
    shape = squeezed(new.shape)
    plain = old.blocks is None and new.blocks is None
    return plain and len(shape) == _MATRIX and squeezed(old.shape) == shape[::-1]


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without dimensions of 1."""
    return tuple(size for size in shape if size != 1)


def _probes(file: RandomAccess, segment: Segment, tensor: Tensor) -> NDArray[np.float64]:
    unit = tensor.record_bytes
    length = max(unit, _PROBE_BYTES // unit * unit)
    runs = [
        file.read_at(segment.offset + (segment.length - length) // unit * index // (_PROBES - 1) * unit, length)
        for index in range(_PROBES)
    ]
    return numbers(b"".join(runs), tensor.element or Element.U8)


def _few(file: RandomAccess, segment: Segment) -> NDArray[np.float64]:
    """Some numbers of a tensor, the same ones whatever their type; of blocks and of what is narrower than a byte, some bytes."""
    element = tensor_of(segment).element or Element.U8
    available = segment.length // element.width
    count = min(_FEW, available)
    places = [(available - count) * index // (_PROBES - 1) for index in range(_PROBES)]
    runs = [file.read_at(segment.offset + place * element.width, count * element.width) for place in places]
    return numbers(b"".join(runs), element)


def _grid(file: RandomAccess, segment: Segment) -> NDArray[np.float64]:
    """Numbers of a matrix at the crossings of some rows and as many columns."""
    rows, columns = squeezed(segment.shape)
    element = tensor_of(segment).element or Element.U8
    width = element.width
    places = [(columns - 1) * column // (_GRID - 1) * width for column in range(_GRID)]
    cells = []
    for start in (segment.offset + (rows - 1) * row // (_GRID - 1) * columns * width for row in range(_GRID)):
        if columns * width <= _SHORT_ROW_BYTES:
            content = file.read_at(start, columns * width)
            cells += [content[place : place + width] for place in places]
        else:
            cells += [file.read_at(start + place, width) for place in places]
    return numbers(b"".join(cells), element).reshape(_GRID, _GRID)


def _correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Of two samples; 0 where one has no spread."""
    with np.errstate(all="ignore"):
        a, b = left - left.mean(), right - right.mean()
        spread = float(np.sqrt((a @ a) * (b @ b)))
        return float(a @ b) / spread if 0 < spread < np.inf else 0.0


def numbers(content: bytes, element: Element) -> NDArray[np.float64]:
    """Elements as real numbers; what is not finite counts as 0."""
    # Signalling NaNs become quiet ones, which is no news.
    with np.errstate(invalid="ignore"):
        if element is Element.BF16:
            values = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        elif element.is_float:
            values = np.frombuffer(content, f"<f{element.width}").astype(np.float64)
        else:
            sign = "u" if element.name.startswith("U") else "i"
            values = np.frombuffer(content, f"<{sign}{element.width}").astype(np.float64)
    return np.where(np.isfinite(values), values, 0.0)


def _distance(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """0 for equal probes, about 1 for unrelated ones."""
    with np.errstate(all="ignore"):
        scale = float(np.abs(left).sum() + np.abs(right).sum())
        return float(np.abs(left - right).sum()) / scale if scale else 0.0


def sample_ranges(count: int, inner: int, wanted: int) -> Sequence[tuple[int, int]]:
    """(first, count) of up to eight runs of records spread over `count`, of whole rows where rows are short enough."""
    if count <= wanted:
        return [(0, count)]
    unit = inner if inner <= wanted // 8 else 1
    length = wanted // 8 // unit * unit
    last = (count - length) // unit
    return [(last * index // 7 * unit, length) for index in range(8)]
