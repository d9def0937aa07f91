"""How much a file of golden samples may hold, for whoever reads one: the server before it is published, the device before it is asked.

What is read here was written by a stranger. `json.loads` of 64 MiB of empty lists takes 1.5 GiB; within these bounds it takes
150 MiB at most, whatever the file holds. They are counted in the text, before anything is built of it. What the samples are
is for `core.golden` to say.
"""

from typing import Final

from device_client.wire.errors import OversizedError
from device_client.wire.fields import Fields, decode_object

MAX_GOLDEN_BYTES: Final = 16 << 20
# Twelve colour images of 224 x 224, or all of a file of 16 MiB in which numbers have eight characters each.
MAX_GOLDEN_VALUES: Final = 2_000_000
# An object takes five times what a number does, and honest files have one for each input and output at most.
MAX_GOLDEN_NAMES: Final = 100_000


def decode_golden(payload: bytes) -> Fields:
    """The members of a file of golden samples; raises `OversizedError` or `MalformedMessageError`."""
    if len(payload) > MAX_GOLDEN_BYTES:
        raise OversizedError(f"expected at most {MAX_GOLDEN_BYTES} bytes of golden samples, got {len(payload)}")
    # Every value but the first stands behind one of these; those inside of strings count too.
    values = payload.count(b",") + payload.count(b"[") + payload.count(b"{")
    if values > MAX_GOLDEN_VALUES:
        raise OversizedError(f"expected golden samples of at most {MAX_GOLDEN_VALUES} values, got {values}")
    names = payload.count(b":") + payload.count(b"{")
    if names > MAX_GOLDEN_NAMES:
        raise OversizedError(f"expected golden samples with at most {MAX_GOLDEN_NAMES} names, got {names}")
    return decode_object(payload, max_bytes=MAX_GOLDEN_BYTES)
