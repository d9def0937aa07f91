"""What an update's fetch is made of: files by the way they come, and what is remembered of them over restarts."""

import json
import shutil
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Final

from device_client.core import room
from device_client.core.deployment import Patch
from device_client.core.errors import KilledError, ShortBodyError
from device_client.core.keys import GIVEN_UP, PART, STREAM
from device_client.wire.bundles import BundleFile
from device_client.wire.delta import Codec
from device_client.wire.states import Transport

MAX_KILLS: Final = 5  # of the process that applies a patch, in one update; more look like a device that cannot do it
MAX_SHORTS: Final = 5  # answers with less than a patch, in one update; a link that is cut is no such answer
WORK: Final = ".work."
STREAMED: Final = frozenset({Codec.TENSOR1.value, Codec.TENSOR1_PORTABLE.value})


class Way(Enum):
    """How a file comes: the name under which its bytes, or the work on them, are staged."""

    FULL = PART
    PATCH = ".patch."  # downloaded whole, then applied
    STREAM = STREAM  # applied while it comes
    IN_PLACE = ".in-place."  # downloaded whole, then the old file becomes the new one


@dataclass(frozen=True)
class Piece:
    """One file of the bundle that must come over the network: `patch` is there unless it comes in full."""

    file: BundleFile
    patch: Patch | None
    way: Way
    staging: Path

    @property
    def part(self) -> Path:
        """The file that grows while it comes, or the directory in which a patch is applied while it comes."""
        way = Way.PATCH if self.way is Way.IN_PLACE else self.way
        return self.staging / f"{way.value}{self.file.name}"

    @property
    def work(self) -> Path:
        """The directory in which a patch is applied."""
        return self.staging / f"{WORK if self.way is Way.PATCH else self.way.value}{self.file.name}"

    @property
    def length(self) -> int:
        return self.file.length if self.patch is None else self.patch.length

    @property
    def sha256(self) -> str:
        return self.file.sha256 if self.patch is None else self.patch.sha256

    @property
    def begun_in_place(self) -> bool:
        """Whether the old file has been given up for this one."""
        return self.way is Way.IN_PLACE and any((self.work / name).exists() for name in ("output", GIVEN_UP))

    def needed_bytes(self, old_bytes: int, beside_bytes: int) -> int:
        """Room that it takes beyond what it has, beside an installed old file of `old_bytes`.

        `beside_bytes` is what a patch that is applied while it comes keeps on disk for interruptions, at most. One in place may
        want more: as much as it reaches back, which only the patch knows; that is reserved before anything is given up.
        """
        if self.way is Way.STREAM:
            return min(self.length, beside_bytes) + self.file.length - size(self.work / "output")
        if self.way is Way.IN_PLACE:
            return (
                self.length
                - size(self.part)
                + max(0, self.file.length - old_bytes)
                + room.batch_bytes(self.file.length)
            )
        return self.length - size(self.part) + (self.file.length if self.patch else 0)


@dataclass
class Progress:
    """What is known of the fetch of one digest, over restarts: the journal has the same.

    `parts` are the lengths of what is fetched by the name under which it is staged, `failed` the codecs of patches that
    were given up by their sha256. `in_place` is the patch that turns an installed file into the new one: once that has
    begun, the device no longer has the old version, and the director no longer offers the patch. `kills` counts how often
    the process that applies a patch was killed, `shorts` how often a patch's answer ended before the patch did.
    """

    digest: str
    transport: Transport = Transport.NONE
    codec: str = ""
    parts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    in_place: Patch | None = None
    kills: int = 0
    shorts: int = 0

    def counts(self, error: Exception) -> bool:
        """Count a failure that may be nobody's fault; whether the same patch is worth another attempt."""
        if isinstance(error, KilledError) and self.kills < MAX_KILLS:
            self.kills += 1
            return True
        if isinstance(error, ShortBodyError) and self.shorts < MAX_SHORTS:
            self.shorts += 1
            return True
        return False

    def encode(self) -> str:
        in_place = None if self.in_place is None else self.in_place.__dict__
        return json.dumps({**self.__dict__, "transport": self.transport.value, "in_place": in_place})

    @classmethod
    def parse(cls, text: str | None, digest: str) -> "Progress":
        """What an interrupted fetch of the same digest left."""
        try:
            stored = json.loads(text or "{}")
            if stored.get("digest") != digest:
                return cls(digest)
            return cls(
                digest,
                Transport(stored["transport"]),
                str(stored["codec"]),
                {str(name): int(length) for name, length in stored["parts"].items()},
                {str(name): str(codec) for name, codec in stored["failed"].items()},
                None if stored["in_place"] is None else Patch(**stored["in_place"]),
                int(stored["kills"]),
                int(stored.get("shorts", 0)),
            )
        except (ValueError, KeyError, AttributeError, TypeError):
            return cls(digest)


def size(path: Path) -> int:
    """Its bytes; 0 if there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def has(path: Path, length: int, digest: str) -> bool:
    """Whether a staged file is complete and right."""
    if size(path) != length:
        return False
    hasher = sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
    except OSError:
        return False
    return hasher.hexdigest() == digest


def remove(path: Path) -> None:
    """Delete a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
