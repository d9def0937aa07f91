"""What the readers share: a source of bytes, a cursor with hard bounds, and the facts that come out."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Final

from fleet.domain.errors import InvalidInputError

WINDOW_BYTES: Final = 65_536
MAX_NAME_CHARS: Final = 200
# Enough for every real model; a header that needs more reads is built to waste time.
MAX_READS: Final = 400_000


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as the file declares it. A dimension of None may have any size."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of weights and the place of its bytes in the file, whole and inside it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def count(self) -> int:
        """How many elements it has."""
        return prod(self.shape)


@dataclass(frozen=True)
class Inspection:
    """What a file of weights says of itself.

    `elements` counts the elements of its weights by dtype. Empty inputs and outputs mean that the format does not
    declare them.
    """

    format: str
    elements: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, TensorInfo] = field(default_factory=dict)
    outputs: Mapping[str, TensorInfo] = field(default_factory=dict)
    operators: Mapping[str, int] = field(default_factory=dict)
    opset: int = 0
    ir_version: int = 0
    producer: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def dominant_dtype(self) -> str | None:
        """The dtype of most weights; None for a file without weights."""
        return max(self.elements, key=lambda dtype: self.elements[dtype]) if self.elements else None

    @property
    def is_quantised(self) -> bool:
        """Whether most weights are stored as integers."""
        return (self.dominant_dtype or "").startswith(("int", "uint"))

    def encode(self) -> dict[str, object]:
        """The JSON form, as it is stored and shown."""
        return {
            "format": self.format,
            "elements": dict(self.elements),
            "dominant_dtype": self.dominant_dtype,
            "quantised": self.is_quantised,
            "inputs": {name: [item.dtype, list(item.shape)] for name, item in self.inputs.items()},
            "outputs": {name: [item.dtype, list(item.shape)] for name, item in self.outputs.items()},
            "operators": dict(self.operators),
            "opset": self.opset,
            "ir_version": self.ir_version,
            "producer": self.producer,
            "metadata": dict(self.metadata),
        }


class MalformedFileError(InvalidInputError):
    """The file is not a whole, honest file of the format that it looks like."""

    def __init__(self, message: str) -> None:
        super().__init__("file_malformed", message)


class ForbiddenFileError(InvalidInputError):
    """The file is of a kind, or has a feature, that is never released."""

    def __init__(self, message: str) -> None:
        super().__init__("file_forbidden", message)


class ByteSource:
    """Random access to a file's bytes through a window; reads outside the file are a malformed file.

    `fetch(offset, size)` returns exactly `size` bytes that lie inside the file.
    """

    def __init__(self, length: int, fetch: Callable[[int, int], bytes], *, max_looks: int | None = None) -> None:
        """`max_looks` bounds how often `read` may be called, for headers built to be walked for minutes."""
        self.length = length
        self._looks_left = max_looks if max_looks is not None else -1
        self._fetch = fetch
        self._window = b""
        self._window_start = 0
        self._reads = 0

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`; raises MalformedFileError beyond the file's end."""
        if not self._looks_left:
            raise MalformedFileError("expected a header that is read in fewer looks, got one with too many parts")
        self._looks_left -= 1
        start = offset - self._window_start
        if not 0 <= start <= start + size <= len(self._window):
            start = self._refill(offset, size)
        return self._window[start : start + size]

    def _refill(self, offset: int, size: int) -> int:
        if offset < 0 or size < 0 or offset + size > self.length:
            raise MalformedFileError(
                f"expected {size} bytes at offset {offset}, got a file of {self.length} bytes that ends before"
            )
        self._reads += 1
        if self._reads > MAX_READS:
            raise MalformedFileError("expected a header of reasonable size, got one with too many parts")
        wanted = min(max(size, WINDOW_BYTES), self.length - offset)
        self._window, self._window_start = self._fetch(offset, wanted), offset
        if len(self._window) != wanted:
            raise MalformedFileError(f"expected {wanted} bytes at offset {offset}, got {len(self._window)}")
        return 0

    def unpack(self, layout: struct.Struct, offset: int) -> tuple[int, ...]:
        """Numbers at `offset`."""
        return layout.unpack(self.read(offset, layout.size))


def text_of(raw: bytes) -> str:
    """Bytes that should be UTF-8, bounded, for names and messages."""
    return raw[: MAX_NAME_CHARS * 4].decode("utf-8", "replace").replace("\x00", "")[:MAX_NAME_CHARS]
