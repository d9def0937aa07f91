"""What a `tensor1` patch makes of a file, found out with the device's own decoder and on both cores.

Blocks need nothing of each other, so a few are decoded at a time. Keeps nothing: it is for patches that were just made.
"""

from concurrent.futures import ThreadPoolExecutor

from device_client.wire.tensor1 import decoder
from device_client.wire.tensor1.io import RandomAccess
from fleet.adapters.delta_tensor.threads import THREADS


def proven_sha256(patch: RandomAccess, old: RandomAccess) -> bytes:
    """The digest of what a device would get, which is what the patch announces; raises a MalformedPatchError otherwise."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        return decoder.apply(patch, old, _nowhere, workers=pool).new_sha256
    finally:
        # After an error, what has not begun is not worth waiting for.
        pool.shutdown(cancel_futures=True)


def _nowhere(offset: int, content: bytes | bytearray) -> None:
    """Blocks are hashed where they are decoded."""
