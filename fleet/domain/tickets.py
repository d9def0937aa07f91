"""Tickets: expiring rights to download one blob, for stores that cannot presign addresses themselves.

A ticket is `<expiry, seconds since the epoch, hex>.<HMAC-SHA256 over blob and expiry, hex>`. It names no device: the
bytes are public to whoever was told about them, and what they are is proved by signed hashes, not by who sent them.
"""

import hashlib
import hmac
import re
from datetime import datetime
from typing import Final

_FORM: Final = re.compile(r"([0-9a-f]{1,12})\.([0-9a-f]{64})")


def ticket_key(secret: bytes) -> bytes:
    """The key for tickets out of a server's secret, so that no other use of the secret can make one."""
    return hmac.digest(secret, b"modelfleet blob tickets v1", "sha256")


def issue(key: bytes, sha256: str, expires_at: datetime) -> str:
    """A ticket for the blob until `expires_at`."""
    expiry = f"{int(expires_at.timestamp()):x}"
    return f"{expiry}.{_mac(key, sha256, expiry)}"


def is_valid(key: bytes, sha256: str, ticket: str, now: datetime) -> bool:
    """Whether the ticket is ours, for this blob, and has not expired."""
    match = _FORM.fullmatch(ticket)
    if match is None:
        return False
    expiry, mac = match.groups()
    return hmac.compare_digest(mac, _mac(key, sha256, expiry)) and int(expiry, 16) > now.timestamp()


def _mac(key: bytes, sha256: str, expiry: str) -> str:
    return hmac.digest(key, f"{sha256}:{expiry}".encode(), hashlib.sha256).hex()
