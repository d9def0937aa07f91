"""Composes what the pipeline command uses: the control plane over HTTP, key sets on disk, verified metadata, the clock.

Adapters that sign or verify are imported where they are made: they take a second, and most commands need none.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.adapters.clock_system import SystemClock
from fleet.adapters.release_server_http import HttpReleaseServer
from fleet.ports.release_server import ReleaseServer

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from fleet.adapters.delta_files import CreatedPatch
    from fleet.adapters.delta_inspection import Inspected
    from fleet.ports.key_sets import AnchorName, KeyName, KeySet
    from fleet.ports.verified_roles import VerifiedRoles

IMAGE_METADATA_PATH = "/image/metadata/"


class NewKeys:
    """Keys that exist in memory only, until `save` writes them together with what they signed."""

    def __init__(self) -> None:
        from fleet.adapters.key_directory import generate_signers

        self._signers = generate_signers()

    @property
    def signers(self) -> "Mapping[KeyName, Signer]":
        """By name."""
        return self._signers

    def save(self, directory: Path, anchors: "Mapping[AnchorName, bytes]", passphrase: bytes | None) -> "KeySet":
        """Write them as a new key set. Raises KeySetUnusableError."""
        from fleet.adapters.key_directory import write_key_set

        return write_key_set(directory, self._signers, anchors, passphrase)


def now() -> datetime:
    """The time, in UTC."""
    return SystemClock().now()


def release_server(url: str, token: str) -> ReleaseServer:
    """A control plane; `token` may be empty. Raises ServerUnreachableError for what is no address."""
    return HttpReleaseServer(url, token)


def key_set(directory: Path) -> "KeySet":
    """An existing key set."""
    from fleet.adapters.key_directory import KeyDirectory

    return KeyDirectory(directory)


def verified_roles(url: str, directory: Path) -> "VerifiedRoles":
    """The image repository published by the server at `url`, trusted through the key set in `directory`."""
    from fleet.adapters.key_directory import KeyDirectory
    from fleet.adapters.verified_repository import VerifiedRepository
    from fleet.ports.key_sets import AnchorName

    keys = KeyDirectory(directory)
    return VerifiedRepository(f"{url}{IMAGE_METADATA_PATH}", keys.anchor(AnchorName.IMAGE_ROOT), keys.published)


def create_patch(old: Path, new: Path, patch: Path, codec: str | None, *, portable: bool = False) -> "CreatedPatch":
    """Make a delta between two files; see `delta_files.create` for what it raises."""
    from device_client.wire.delta import Codec
    from fleet.adapters.delta_files import create
    from fleet.adapters.delta_tensor import Coding

    coding = Coding.PORTABLE if portable else Coding.PCODEC
    return create(old, new, patch, None if codec is None else Codec(codec), coding)


def apply_patch(old: Path, patch: Path, new: Path) -> int:
    """Make a file out of an old one and a delta; see `delta_files.apply`."""
    from fleet.adapters.delta_files import apply

    return apply(old, patch, new)


def inspect_patch(patch: Path, model: Path | None) -> "Inspected":
    """What a delta is made of; see `delta_inspection.inspect`."""
    from fleet.adapters.delta_inspection import inspect

    return inspect(patch, model)
