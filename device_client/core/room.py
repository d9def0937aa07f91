"""How much of the disk the application of a patch takes beside the files themselves: what is planned, and what is then kept to."""

from dataclasses import dataclass
from typing import Final

from device_client.wire.tensor1.format import MAX_BLOCK_BYTES, MAX_PROLOGUE_BYTES, MAX_STREAM_BYTES

# Written so many bytes ago, everything is synced: what a power cut may cost.
SYNC_BYTES: Final = 8 << 20
MAX_REACH_BYTES: Final = 64 << 20
_LEAST_BATCH_BYTES: Final = 16 << 10
_BATCHES: Final = 8
_JOURNAL_BYTES: Final = 1 << 20

# Applied while it comes: what the last sync needs of a stream and what has been kept since, the patch's head, the journal.
STREAM_BESIDE_BYTES: Final = (
    MAX_STREAM_BYTES + MAX_STREAM_BYTES // 8 + SYNC_BYTES + MAX_BLOCK_BYTES + MAX_PROLOGUE_BYTES + _JOURNAL_BYTES
)
# In place, at most: old bytes that are still wanted, a batch beside them and one on its way, the journal.
IN_PLACE_BESIDE_BYTES: Final = MAX_REACH_BYTES + 2 * (SYNC_BYTES + MAX_BLOCK_BYTES) + _JOURNAL_BYTES


@dataclass(frozen=True)
class Room:
    """How much of the disk an update leaves alone, and what a patch that is applied while it comes may need beside the file."""

    spare_bytes: int = 16 * 2**20
    beside_bytes: int = STREAM_BESIDE_BYTES


def batch_bytes(new_bytes: int) -> int:
    """How many bytes are made before they are put in place: an eighth of a small file, or in place would save it no room."""
    return min(SYNC_BYTES, max(new_bytes // _BATCHES, _LEAST_BATCH_BYTES))
