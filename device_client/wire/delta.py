"""Delta codecs that a device can apply, and the one way to apply them.

`apply` is pure over bytes and decides nothing about trust: the caller has verified the patch's length and sha256
against director metadata and verifies the result against the pipeline-signed sha256. Limits are checked from the
patch's header before anything is inflated; memory is bounded by the caller's process limits besides
(a bsdiff4 patch can inflate far beyond its announced size, so devices apply it in a limited child process).
"""

import struct
from enum import Enum
from typing import Final

import bsdiff4

from device_client.wire.errors import MalformedPatchError, OversizedError

_HEADER: Final = struct.Struct("<8sqqq")
_MAGIC: Final = b"BSDIFF40"


class Codec(str, Enum):
    """How a patch is coded. A device advertises those that it can apply."""

    BSDIFF4 = "bsdiff4"


def announced_bytes(codec: Codec, patch: bytes) -> int:
    """The length of the output that the patch's header announces; raises `MalformedPatchError`."""
    if codec is not Codec.BSDIFF4:
        raise MalformedPatchError(f"expected codec {Codec.BSDIFF4.value}, got {codec!r}")
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
    try:
        output = bsdiff4.patch(old, patch)
    except (ValueError, MemoryError, OSError, EOFError, TypeError, IndexError, OverflowError) as error:
        raise MalformedPatchError(
            f"expected an applicable bsdiff4 patch, got {type(error).__name__}: {error}"
        ) from error
    if len(output) != expected_bytes:
        raise MalformedPatchError(f"expected {expected_bytes} bytes of output, got {len(output)}")
    return bytes(output)
