"""A pipeline's keys and what it remembers, outside the reach of any server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from securesystemslib.signer import Key, Signer

from fleet.domain.repository import Profile


class KeyName(StrEnum):
    """Which key is meant, by what it signs."""

    IMAGE_ROOT = "image-root"
    IMAGE_TARGETS = "image-targets"
    DIRECTOR_ROOT = "director-root"
    PIPELINE = "pipeline"


class AnchorName(StrEnum):
    """First versions of the roles that people sign, as they were imported into the server."""

    IMAGE_ROOT = "image-root"
    IMAGE_TARGETS = "image-targets"
    DIRECTOR_ROOT = "director-root"


@dataclass(frozen=True)
class RecordedRole:
    """What this key set knows to have been signed for a role; `profile` is empty for the top-level targets."""

    version: int
    sha256: str
    profile: Profile | None = None


class KeySetUnusableError(Exception):
    """A key or record is missing, damaged, exposed or locked with another passphrase; one line says which."""


Passphrase = Callable[[], bytes | None]


class KeySet(Protocol):
    """One directory of keys, anchors and records. Every method may raise KeySetUnusableError."""

    def public_keys(self) -> Mapping[KeyName, Key]:
        """The public halves."""
        ...

    def signer(self, name: KeyName, passphrase: Passphrase) -> Signer:
        """The private key of that name; `passphrase` is asked only if the key is encrypted."""
        ...

    def anchor(self, name: AnchorName) -> bytes:
        """The signed bytes."""
        ...

    def recorded(self) -> Mapping[str, RecordedRole]:
        """By role name, the highest version known to be signed."""
        ...

    def record(self, role: str, entry: RecordedRole) -> None:
        """Remember, durably. What is older than what is remembered changes nothing: another process was faster."""
        ...
