"""A mergeable latency sketch: a logarithmic histogram with a bounded relative error, sent as delta-varints.

A value x > 0 falls in bucket i = ceil(log(x) / log(GAMMA)), whose upper edge is GAMMA**i; the mapping is that of
DDSketch (Masson, Rim, Lee 2019). Quantiles are within `RELATIVE_ERROR`. Counts above a bucket edge are exact, which is
why latency gates read exceedances at edges. Merging is associative and commutative.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

from device_client.wire import limits
from device_client.wire.errors import MalformedMessageError, OversizedError

RELATIVE_ERROR: Final = 0.02
GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA: Final = math.log(GAMMA)
MIN_INDEX: Final = -512  # about 1.3e-9 of the unit; smaller values, zero included, count here
MAX_INDEX: Final = 1_024
FORMAT: Final = 1


def index_of(value: float) -> int:
    """The bucket of `value`, clamped to the sketch's range."""
    if value <= 0:
        return MIN_INDEX
    return max(MIN_INDEX, min(MAX_INDEX, math.ceil(math.log(value) / _LOG_GAMMA)))


def edge(index: int) -> float:
    """The upper edge of a bucket, in the unit of the values."""
    return math.exp(index * _LOG_GAMMA)


def snap(threshold: float) -> float:
    """The nearest bucket edge at or above `threshold`: the value that an exceedance gate really uses."""
    return edge(index_of(threshold))


class LatencySketch:
    """Counts per logarithmic bucket. Values are in milliseconds by convention of the wire messages."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts: dict[int, int] = dict(counts or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LatencySketch) and self._counts == other._counts

    def __hash__(self) -> int:
        return hash(frozenset(self._counts.items()))

    @property
    def total(self) -> int:
        """How many values were added."""
        return sum(self._counts.values())

    def add(self, value: float, count: int = 1) -> None:
        """Count `value`."""
        index = index_of(value)
        self._counts[index] = self._counts.get(index, 0) + count

    def merge(self, other: "LatencySketch") -> None:
        """Add the counts of `other` to this sketch. A count stays at `MAX_COUNT`, so that the sum can be decoded again."""
        for index, count in other._counts.items():  # noqa: SLF001 - another sketch
            self._counts[index] = min(self._counts.get(index, 0) + count, limits.MAX_COUNT)

    def above(self, threshold: float) -> int:
        """How many values lie above `snap(threshold)`. Exact, because that is a bucket edge."""
        limit = index_of(threshold)
        return sum(count for index, count in self._counts.items() if index > limit)

    def quantile(self, q: float) -> float | None:
        """The q-quantile within `RELATIVE_ERROR`, or None for an empty sketch."""
        total = self.total
        if total == 0:
            return None
        rank = q * (total - 1)
        seen = 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen > rank:
                return 0.0 if index == MIN_INDEX else 2 * edge(index) / (1 + GAMMA)
        return edge(max(self._counts))

    def encode(self) -> bytes:
        """Format byte, then (zigzag first index or gap, count) varints in rising order of index."""
        out = bytearray([FORMAT])
        previous: int | None = None
        for index in sorted(self._counts):
            count = self._counts[index]
            if count <= 0:
                continue
            _write_varint(out, _zigzag(index) if previous is None else index - previous)
            _write_varint(out, count)
            previous = index
        return bytes(out)

    @classmethod
    def decode(cls, payload: bytes) -> "LatencySketch":
        """Inverse of `encode`; raises `OversizedError` or `MalformedMessageError`."""
        if len(payload) > limits.MAX_SKETCH_BYTES:
            raise OversizedError(f"expected a sketch of at most {limits.MAX_SKETCH_BYTES} bytes, got {len(payload)}")
        if not payload or payload[0] != FORMAT:
            raise MalformedMessageError(f"expected a sketch of format {FORMAT}, got {payload[:1]!r}")
        counts: dict[int, int] = {}
        numbers = _read_varints(payload, 1)
        index: int | None = None
        for number in numbers:
            index = _unzigzag(number) if index is None else index + number
            count = next(numbers, None)
            if count is None or count <= 0 or index in counts or not MIN_INDEX <= index <= MAX_INDEX:
                raise MalformedMessageError(f"expected rising buckets with counts, got bucket {index} count {count}")
            counts[index] = count
        return cls(counts)


def _zigzag(value: int) -> int:
    return value * 2 if value >= 0 else -value * 2 - 1


def _unzigzag(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


def _write_varint(out: bytearray, value: int) -> None:
    while value >= 0x80:  # noqa: PLR2004 - LEB128 continuation
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _read_varints(payload: bytes, start: int) -> Iterator[int]:
    value = shift = 0
    for byte in payload[start:]:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift > 49:  # noqa: PLR2004 - keeps counts below 2**56
                raise MalformedMessageError("expected varints of at most 8 bytes, got a longer one")
            continue
        yield value
        value = shift = 0
    if shift:
        raise MalformedMessageError("expected whole varints, got a truncated one")
