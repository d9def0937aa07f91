"""An encoder that knows nothing of differences: its patches carry the whole new file. It passes the real ones' contract test."""

import hashlib
from pathlib import Path
from typing import Final

from device_client.wire.delta import Codec
from device_client.wire.tensor1.format import MIN_BLOCK_BYTES, Flag, Header, pack_header
from fleet.ports.delta_encoder import DeltaTooExpensiveError, WeightsFile


class VerbatimEncoder:
    """A `DeltaEncoder` of codec `tensor1-portable` for files of at most `max_bytes`."""

    codec: Final = Codec.TENSOR1_PORTABLE

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def encode(self, old: WeightsFile, new: WeightsFile, patch: Path) -> None:
        before, after = old.path.read_bytes(), new.path.read_bytes()
        if max(len(before), len(after)) > self._max_bytes:
            raise DeltaTooExpensiveError(f"expected at most {self._max_bytes} bytes, got more")
        header = Header(
            flags=Flag.VERBATIM,
            block_bytes=MIN_BLOCK_BYTES,
            old_bytes=len(before),
            old_sha256=hashlib.sha256(before).digest(),
            new_bytes=len(after),
            new_sha256=hashlib.sha256(after).digest(),
            reach_back=0,
        )
        patch.write_bytes(pack_header(header) + after)
