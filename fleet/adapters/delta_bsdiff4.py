"""Patches by bsdiff. Its suffix sort needs about 17 times the size of the old file, so the size it may be used for is bounded."""

from typing import Final

import bsdiff4

from device_client.wire.delta import Codec
from fleet.ports.delta_encoder import DeltaTooExpensiveError

# 17 x 32 MiB is 544 MiB, which a worker may take for a while; the library lets other threads run meanwhile.
MAX_BYTES: Final = 32 << 20


class Bsdiff4Encoder:
    """A `DeltaEncoder` of codec `bsdiff4`."""

    codec = Codec.BSDIFF4

    def encode(self, old: bytes, new: bytes) -> bytes:
        """A patch from `old` to `new`."""
        largest = max(len(old), len(new))
        if largest > MAX_BYTES:
            raise DeltaTooExpensiveError(f"expected files of at most {MAX_BYTES} bytes for bsdiff4, got {largest}")
        return bytes(bsdiff4.diff(old, new))
