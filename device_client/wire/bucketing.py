"""Which bucket a device is in: the versioned hash that every assignment, plan notice and SQL twin shares.

Bucket version 1 = the first 8 bytes (big-endian) of sha256("v1:<seed>:<device id>") scaled to [0, 1_000_000).
Ranges are half-open. A device keeps its bucket through every phase of a rollout, so phases are nested.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from device_client.wire.errors import MalformedMessageError

BUCKETS: Final = 1_000_000
_HEAD: Final = struct.Struct(">Q")


def bucket(seed: str, device_id: str) -> int:
    """The device's bucket in [0, BUCKETS) under `seed`."""
    head = hashlib.sha256(f"v1:{seed}:{device_id}".encode()).digest()[:8]
    return int.from_bytes(head, "big") * BUCKETS >> 64


class Seeded:
    """The buckets of many devices under one seed; the part of the hash that they share is made once."""

    __slots__ = ("_head",)

    def __init__(self, seed: str) -> None:
        self._head = hashlib.sha256(f"v1:{seed}:".encode())

    def bucket(self, device_id: bytes) -> int:
        """As `bucket`, of an id that was encoded once for all seeds."""
        state = self._head.copy()
        state.update(device_id)
        return _HEAD.unpack_from(state.digest())[0] * BUCKETS >> 64  # type: ignore[no-any-return]


@dataclass(frozen=True, order=True)
class BucketRange:
    """Buckets in [start, end)."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= BUCKETS:
            raise MalformedMessageError(f"expected 0 <= start <= end <= {BUCKETS}, got [{self.start}, {self.end})")

    def __contains__(self, value: int) -> bool:
        return self.start <= value < self.end


def share_range(share: float) -> BucketRange:
    """The treated range of a phase: [0, share) of all buckets, so that a larger share contains a smaller one."""
    return BucketRange(0, round(share * BUCKETS))


def control_range(share: float) -> BucketRange:
    """The control range: the last `share` of all buckets, which the treated range reaches last."""
    return BucketRange(BUCKETS - round(share * BUCKETS), BUCKETS)
