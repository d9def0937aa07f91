"""Who makes patches between two files, and who proves them. Applying them is the device's code, `device_client.wire`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from device_client.wire.delta import Codec


class DeltaTooExpensiveError(Exception):
    """This encoder would need more memory or time for the pair than it may have."""


@dataclass(frozen=True)
class WeightsFile:
    """Weights on this machine. `description` is the model file that tells what lies in them, where they do not themselves.

    `name` is what that model file calls them.
    """

    path: Path
    name: str = ""
    description: Path | None = None


class DeltaEncoder(Protocol):
    """Makes patches of one codec."""

    @property
    def codec(self) -> Codec:
        """What it makes."""
        ...

    def encode(self, old: WeightsFile, new: WeightsFile, patch: Path) -> None:
        """Write to `patch`, which does not exist, a patch that turns `old` into `new`; the same one for the same files.

        Raises DeltaTooExpensiveError before it starts on what is too large, and OSError.
        """
        ...


class DeltaProof(Protocol):
    """Applies patches with the device's own decoder, and keeps nothing of the result."""

    def digest(self, codec: Codec, old: Path, patch: Path, expected_bytes: int) -> str:
        """The sha256 of what a device would get.

        Raises a WireError where a device would refuse the patch, and OSError.
        """
        ...
