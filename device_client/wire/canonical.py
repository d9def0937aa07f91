"""One byte string for one value: JSON with sorted keys, no spaces, UTF-8, no NaN. Hashes are taken over this."""

import hashlib
import json

from device_client.wire.errors import MalformedMessageError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def encode(value: object) -> bytes:
    """Canonical bytes of a JSON value. Raises `MalformedMessageError` for NaN, infinities and non-JSON types."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MalformedMessageError(f"expected a JSON value without NaN, got {error}") from error
    return text.encode()


def digest(value: object) -> str:
    """Hexadecimal SHA-256 of the canonical bytes."""
    return hashlib.sha256(encode(value)).hexdigest()
