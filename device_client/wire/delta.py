"""Delta codecs that a device can apply, and the one way to apply them to bytes in memory.

`apply` is pure over bytes and decides nothing about trust: the caller has verified the patch's length and sha256
against director metadata and verifies the result against the pipeline-signed sha256. Limits are checked from the
patch's header before anything is inflated; memory is bounded by the caller's process limits besides
(a bsdiff4 patch can inflate far beyond its announced size, so devices apply it in a limited child process).
What holds only one block of a file at a time is `tensor1.decode`.
"""

import struct
from enum import Enum
from importlib.util import find_spec
from typing import Final

from device_client.wire.errors import MalformedPatchError, OversizedError
from device_client.wire.tensor1 import decoder
from device_client.wire.tensor1.format import Flag

_HEADER: Final = struct.Struct("<8sqqq")
_MAGIC: Final = b"BSDIFF40"


class Codec(str, Enum):
    """How a patch is coded. A device advertises those that it can apply.

    Both kinds of `tensor1` are one format: the portable kind is written without pcodec, for devices that have none.
    """

    BSDIFF4 = "bsdiff4"
    TENSOR1 = "tensor1"
    TENSOR1_PORTABLE = "tensor1-portable"


def applicable_codecs() -> tuple[Codec, ...]:
    """The codecs whose libraries are installed here, best first: what a device advertises."""
    if find_spec("numpy") is None:
        return (Codec.BSDIFF4,)
    if find_spec("pcodec") is None:
        return (Codec.TENSOR1_PORTABLE, Codec.BSDIFF4)
    return (Codec.TENSOR1, Codec.TENSOR1_PORTABLE, Codec.BSDIFF4)


def announced_bytes(codec: Codec, patch: bytes) -> int:
    """The length of the output that the patch's header announces; raises `MalformedPatchError`."""
    if codec is not Codec.BSDIFF4:
        header = decoder.read_header(_Held(patch))
        if codec is Codec.TENSOR1_PORTABLE and Flag.NEEDS_PCODEC in header.flags:
            raise MalformedPatchError("expected a portable patch, got one that needs pcodec")
        return header.new_bytes
    if len(patch) < _HEADER.size:
        raise MalformedPatchError(f"expected a header of {_HEADER.size} bytes, got {len(patch)}")
    magic, control, diff, output = _HEADER.unpack_from(patch)
    if magic != _MAGIC or min(control, diff, output) < 0 or _HEADER.size + control + diff > len(patch):
        raise MalformedPatchError(f"expected a bsdiff4 header with lengths inside the patch, got {patch[:32].hex()}")
    return int(output)


def apply(codec: Codec, old: bytes, patch: bytes, *, expected_bytes: int) -> bytes:
    """Apply `patch` to `old`. The output has exactly `expected_bytes`, or `MalformedPatchError`/`OversizedError`."""
    announced = announced_bytes(codec, patch)
    if announced != expected_bytes:
        raise OversizedError(f"expected a patch that makes {expected_bytes} bytes, got one that announces {announced}")
    output = _patched(old, patch) if codec is Codec.BSDIFF4 else _decoded(old, patch)
    if len(output) != expected_bytes:
        raise MalformedPatchError(f"expected {expected_bytes} bytes of output, got {len(output)}")
    return output


def _patched(old: bytes, patch: bytes) -> bytes:
    # Imported where it is used: most processes that name codecs apply no patch.
    import bsdiff4

    try:
        return bytes(bsdiff4.patch(old, patch))
    except (ValueError, MemoryError, OSError, EOFError, TypeError, IndexError, OverflowError) as error:
        raise MalformedPatchError(
            f"expected an applicable bsdiff4 patch, got {type(error).__name__}: {error}"
        ) from error


def _decoded(old: bytes, patch: bytes) -> bytes:
    output = bytearray()

    def write(offset: int, content: bytes | bytearray) -> None:
        output[offset:] = content

    decoder.apply(_Held(patch), _Held(old), write)
    return bytes(output)


class _Held:
    """Bytes in memory by offset."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def read_at(self, offset: int, length: int) -> bytes:
        return self._content[offset : offset + length]
