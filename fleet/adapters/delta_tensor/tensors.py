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
_FLOATS: Final = frozenset({Dtype.FLOAT32, Dtype.FLOAT16, Dtype.BFLOAT16})


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
        self._by_shape: dict[tuple[Dtype, tuple[int, ...]], list[Segment]] = {}
        for segment in layout.segments:
            self._by_name.setdefault(segment.name, []).append(segment)
            self._by_base.setdefault(base_name(segment.name), []).append(segment)
            self._by_shape.setdefault((segment.dtype, segment.shape), []).append(segment)
        self._used: set[int] = set()
        self._sketches: dict[tuple[Dtype, tuple[int, ...]], Sketches] = {}

    def match(self, new: RandomAccess, segment: Segment) -> Segment | None:
        """The old tensor that predicts this one best, or None."""
        found = self._named(segment)
        if found is None or not self._is_likely(new, segment, found):
            # Exporters number nameless weights, and number them otherwise the next time.
            found = self._alike(new, segment) or found or self._cast_of(new, segment)
        if found is not None:
            self._used.add(found.offset)
        return found

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
        """Of the old tensors of this shape and type, the one whose probes are nearest; unused ones win ties."""
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

    def _likely(self, new: RandomAccess, segment: Segment, dtype: Dtype) -> Sequence[Segment]:
        """The old tensors of this shape and that type, or those whose sketches say that they may be what is looked for."""
        key = (dtype, segment.shape)
        candidates = self._by_shape.get(key, [])
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
    plain = old.blocks is None and new.blocks is None
    return plain and len(new.shape) == _MATRIX and min(new.shape) > 1 and old.shape == new.shape[::-1]


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
