"""Patches by bsdiff. Its suffix sort needs about 17 times the size of the old file, so the size it may be used for is bounded."""

from pathlib import Path

import bsdiff4

from fleet.domain.delta_plan import BSDIFF4_MAX_BYTES
from fleet.ports.delta_encoder import DeltaTooExpensiveError


def diff(old: Path, new: Path) -> bytes:
    """A patch from `old` to `new`; raises DeltaTooExpensiveError before it reads what is too large, and OSError."""
    largest = max(old.stat().st_size, new.stat().st_size)
    if largest > BSDIFF4_MAX_BYTES:
        raise DeltaTooExpensiveError(f"expected files of at most {BSDIFF4_MAX_BYTES} bytes for bsdiff4, got {largest}")
    return bytes(bsdiff4.diff(old.read_bytes(), new.read_bytes()))
