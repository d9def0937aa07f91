"""Who makes patches between two files. Applying them is the device's code, `device_client.wire.delta`."""

from typing import Protocol

from device_client.wire.delta import Codec


class DeltaTooExpensiveError(Exception):
    """This encoder would need more memory or time for the pair than it may have."""


class DeltaEncoder(Protocol):
    """Makes patches of one codec."""

    @property
    def codec(self) -> Codec:
        """What it makes."""
        ...

    def encode(self, old: bytes, new: bytes) -> bytes:
        """A patch that turns `old` into `new`; raises DeltaTooExpensiveError before it starts on what is too large."""
        ...
