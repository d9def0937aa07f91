"""How the files of a bundle come into staging: what is here is copied, what fits a patch is patched, the rest is fetched.

Deltas are tried smallest first; each that fails is noted, so that no later attempt and no restart tries it again, and the
next one or the full file follows. What is staged is kept until the deployment ends: a download goes on where it stopped.
"""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from device_client.core import acceptance
from device_client.core.backoff import Backoff
from device_client.core.deployment import Deployment, Fetched, FetchPlanned, Patch, Target
from device_client.core.errors import (
    CancelledError,
    DigestMismatchError,
    GoneError,
    IncompatibleError,
    NoSpaceError,
    PatchError,
    StalledError,
    TicketError,
    TransferError,
)
from device_client.core.keys import PART, STREAM, progress_key
from device_client.core.profile import Profile
from device_client.ports import Clock, Downloads, Journal, Patcher, PatchJob, Slots, Transfer
from device_client.wire.bundles import BundleFile, FileRole, Manifest
from device_client.wire.delta import Codec
from device_client.wire.errors import WireError
from device_client.wire.states import Transport

log = logging.getLogger(__name__)

SPARE_BYTES: Final = 16 * 2**20  # left free for everything else on the device
RETRIES: Final = Backoff(least_s=0.2, first_s=1.0, most_s=60.0)
PATCH: Final = ".patch."
WORK: Final = ".work."
STREAMED: Final = frozenset({Codec.TENSOR1.value, Codec.TENSOR1_PORTABLE.value})
STREAM_BESIDE_BYTES: Final = 16 * 2**20  # what a streamed patch keeps on disk for interruptions
MANIFEST_PART: Final = ".manifest"  # no file of a bundle can be called so: their names begin with a letter or digit


@dataclass(frozen=True)
class _Piece:
    """One file of the bundle that must come over the network: `patch` says whether as a delta.

    `part` is the file that grows while it comes, or the directory in which a patch is applied while it comes.
    """

    file: BundleFile
    patch: Patch | None
    part: Path

    @property
    def streams(self) -> bool:
        return self.patch is not None and self.patch.codec in STREAMED

    @property
    def length(self) -> int:
        return self.file.length if self.patch is None else self.patch.length

    @property
    def sha256(self) -> str:
        return self.file.sha256 if self.patch is None else self.patch.sha256


@dataclass
class _Progress:
    """What is known of the fetch of one digest, over restarts: the journal has the same.

    `parts` are the lengths of what is fetched by the name under which it is staged, `failed` the codecs of patches that
    were given up by their sha256.
    """

    digest: str
    transport: Transport = Transport.NONE
    codec: str = ""
    parts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def encode(self) -> str:
        return json.dumps({**self.__dict__, "transport": self.transport.value})

    @classmethod
    def parse(cls, text: str | None, digest: str) -> "_Progress":
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
            )
        except (ValueError, KeyError, AttributeError):
            return cls(digest)


class Fetcher:
    """Fetches for one device. Thread-safe as long as no two fetches of one model run at once."""

    def __init__(
        self,
        *,
        slots: Slots,
        downloads: Downloads,
        patcher: Patcher,
        journal: Journal,
        clock: Clock,
        dice: Callable[[], float],
    ) -> None:
        self._slots = slots
        self._downloads = downloads
        self._patcher = patcher
        self._journal = journal
        self._clock = clock
        self._dice = dice

    def fetch(
        self,
        deployment: Deployment,
        profile: Profile,
        announce: Callable[[FetchPlanned], None],
        cancelled: Callable[[], bool],
    ) -> Fetched:
        """Stage every file, retrying over a bad network until the policy's deadline; see `Installer.fetch`."""
        attempt = 0
        while True:
            try:
                return _Fetch(self, deployment, profile, announce, cancelled).run()
            except (TicketError, CancelledError):
                raise
            except TransferError as error:
                left = self.left_s(deployment)
                wait_s = RETRIES.wait_s(attempt, self._dice())
                if left <= wait_s:
                    raise
                log.info(
                    "download of %s %s: %s; again in %.1f s", deployment.model, deployment.aim.version, error, wait_s
                )
                self._pause(wait_s, cancelled)
                attempt += 1

    def left_s(self, deployment: Deployment) -> float:
        """Seconds until the policy's deadline."""
        return deployment.began_at + deployment.aim.policy.download_deadline_s - self._clock.now().timestamp()

    def _pause(self, seconds: float, cancelled: Callable[[], bool]) -> None:
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            if cancelled():
                raise CancelledError("stopped while waiting for the network")
            self._clock.sleep(min(left, 0.2))

    @property
    def ports(self) -> tuple[Slots, Downloads, Patcher, Journal]:
        """What one attempt works with."""
        return self._slots, self._downloads, self._patcher, self._journal


class _Fetch:
    """One attempt at one deployment."""

    def __init__(
        self,
        fetcher: Fetcher,
        deployment: Deployment,
        profile: Profile,
        announce: Callable[[FetchPlanned], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._fetcher = fetcher
        self._slots, self._downloads, self._patcher, self._journal = fetcher.ports
        self._deployment = deployment
        self._model = deployment.model
        self._aim = deployment.aim
        self._profile = profile
        self._announce = announce
        self._cancelled = cancelled
        self._staging = self._slots.staging(self._model, self._aim.digest)
        self._progress = _Progress.parse(self._journal.recall(progress_key(self._model)), self._aim.digest)

    def run(self) -> Fetched:
        """Stage what is missing."""
        progress = self._progress
        before = frozenset(progress.parts)
        received = sum(self._staged_bytes(name) for name in before)
        manifest, manifest_bytes = self._manifest()
        received += manifest_bytes
        acceptance.suit(manifest, self._aim.path, self._profile)
        pieces = self._plan(manifest)
        self._require_space(pieces, manifest)
        total = self._aim.length + manifest.content_bytes
        begun = sum(self._held(piece) for piece in pieces if piece.part.name in before)
        progress.parts = {MANIFEST_PART: self._aim.length, **progress.parts}
        if pieces:
            progress.transport = _transport(pieces)
        self._note(pieces, total, begun)
        for piece in pieces:
            received += self._bring(piece, total, begun)
        return Fetched(progress.transport, received, total, progress.codec, self._fallbacks)

    def _bring(self, wanted: _Piece, total: int, begun: int) -> int:
        """One piece by whichever way works; returns the bytes that came."""
        received, piece = 0, wanted
        while True:
            held = self._held(piece)
            try:
                return received + self._get(piece)
            except (PatchError, DigestMismatchError, GoneError) as error:
                if piece.patch is None:
                    raise
                log.warning("a %s patch for %s %s failed: %s", piece.patch.codec, self._model, self._aim.version, error)
                received += max(0, self._held(piece) - held)
                _remove(piece.part)
                if piece.streams and held and isinstance(error, PatchError):
                    # What was there may have been torn, or of another patch: once more, from nothing.
                    continue
                self._progress.failed[piece.patch.sha256] = piece.patch.codec
            piece = self._piece(piece.file)
            self._progress.transport = _transport([piece])
            self._note([piece], total, begun)

    @property
    def _fallbacks(self) -> tuple[str, ...]:
        return tuple(self._progress.failed.values())

    def _note(self, pieces: list[_Piece], total: int, begun: int) -> None:
        """Record and report by which way the pieces come from now on."""
        progress = self._progress
        if pieces:
            progress.codec = next((piece.patch.codec for piece in pieces if piece.patch is not None), "")
        progress.parts |= {piece.part.name: piece.length for piece in pieces}
        self._journal.remember({progress_key(self._model): progress.encode()})
        self._announce(FetchPlanned(progress.transport, total, begun, progress.codec, self._fallbacks))

    def _staged_bytes(self, name: str) -> int:
        if name.startswith(STREAM):
            return self._patcher.taken(self._staging / name)
        return size(self._staging / name) or size(self._staging / name.removeprefix(PART))

    def _manifest(self) -> tuple[Manifest, int]:
        """The verified manifest, fetched unless it is staged; with the bytes that it took."""
        aim, part = self._aim, self._staging / MANIFEST_PART
        received = 0
        if not has(part, aim.length, aim.digest):
            received = self._downloads.fetch(self._transfer(aim.digest, aim.length), part, self._cancelled).received
        try:
            return Manifest.parse(part.read_bytes()), received
        except WireError as error:
            raise IncompatibleError(f"manifest of {aim.path}: {error}") from error

    def _plan(self, manifest: Manifest) -> list[_Piece]:
        """What must come over the network: small files first. What is here already is copied."""
        pieces = []
        for file in sorted(manifest.files, key=lambda item: item.role is FileRole.WEIGHTS):
            if has(self._staging / file.name, file.length, file.sha256):
                continue
            held = self._slots.blob(self._model, file.sha256)
            if held is None or not _copy(held, self._staging / file.name, file):
                pieces.append(self._piece(file))
        return pieces

    def _piece(self, file: BundleFile) -> _Piece:
        """The cheapest way to a file that has not failed yet."""
        patch = next(iter(self._patches(file)), None)
        kind = PART if patch is None else STREAM if patch.codec in STREAMED else PATCH
        return _Piece(file, patch, self._staging / f"{kind}{file.name}")

    def _patches(self, file: BundleFile) -> list[Patch]:
        if file.role is not FileRole.WEIGHTS:
            return []
        held = {
            patch.old_sha256
            for patch in self._aim.patches
            if self._slots.blob(self._model, patch.old_sha256) is not None
        }
        offered = acceptance.usable_patches(self._aim, file.sha256, held=held, codecs=self._profile.capabilities.codecs)
        return [
            patch
            for patch in offered
            if patch.length < file.length
            and patch.sha256 in self._aim.tickets
            and patch.sha256 not in self._progress.failed
        ]

    def _require_space(self, pieces: list[_Piece], manifest: Manifest) -> None:
        """Room for the files and for what patches need beside them: a streamed one is never on disk as a whole."""
        needed = 0
        for piece in pieces:
            if piece.streams:
                beside = min(piece.length, STREAM_BESIDE_BYTES)
                needed += beside + piece.file.length - size(piece.part / "output")
            else:
                needed += piece.length + (piece.file.length if piece.patch else 0) - size(piece.part)
        needed = max(needed, manifest.requirements.disk_bytes) + SPARE_BYTES
        free = self._slots.free_bytes()
        if free < needed:
            raise NoSpaceError(f"expected {needed} free bytes, got {free}")

    def _held(self, piece: _Piece) -> int:
        """The bytes of a piece that are here, or have been used up, already."""
        return self._patcher.taken(piece.part) if piece.streams else size(piece.part)

    def _get(self, piece: _Piece) -> int:
        """One piece: fetched, and if it is a patch, applied. Returns the bytes that came."""
        file, patch = piece.file, piece.patch
        transfer = self._transfer(piece.sha256, piece.length)
        if patch is None:
            received = self._downloads.fetch(transfer, piece.part, self._cancelled).received
            piece.part.replace(self._staging / file.name)
            return received
        job = self._job(piece, patch)
        if piece.streams:
            received = self._patcher.stream(
                job, lambda start: self._downloads.stream(transfer, start, self._cancelled), self._cancelled
            )
        else:
            received = self._downloads.fetch(transfer, piece.part, self._cancelled).received
            self._patcher.apply(job, piece.part)
        if not has(job.output, file.length, file.sha256):
            job.output.unlink(missing_ok=True)
            raise PatchError(f"expected the patch to make {file.sha256[:16]}, got other bytes")
        job.output.replace(self._staging / file.name)
        return received

    def _job(self, piece: _Piece, patch: Patch) -> PatchJob:
        old = self._slots.blob(self._model, patch.old_sha256)
        if old is None:
            raise PatchError(f"expected the blob {patch.old_sha256[:16]} on this device, got none")
        return PatchJob(
            codec=Codec(patch.codec),
            patch_sha256=patch.sha256,
            patch_bytes=patch.length,
            old=old,
            old_sha256=patch.old_sha256,
            new_sha256=piece.file.sha256,
            new_bytes=piece.file.length,
            work=piece.part if piece.streams else self._staging / f"{WORK}{piece.file.name}",
        )

    def _transfer(self, digest: str, length: int) -> Transfer:
        policy = self._aim.policy
        limits = (self._profile.bandwidth_bytes_per_s, policy.download_bytes_per_s)
        left = self._fetcher.left_s(self._deployment)
        if left <= 0:
            raise StalledError(f"expected the download within {policy.download_deadline_s:g} s")
        return Transfer(
            url=_ticket(self._aim, digest),
            sha256=digest,
            length=length,
            bytes_per_s=min((limit for limit in limits if limit > 0), default=0),
            deadline_s=left,
        )


def _ticket(aim: Target, digest: str) -> str:
    ticket = aim.tickets.get(digest)
    if ticket is None:
        raise TicketError(f"expected a ticket for {digest[:16]}, got none")
    return ticket


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


def _copy(source: Path, output: Path, file: BundleFile) -> bool:
    """Take a file that a retained slot has; False if its bytes have rotted."""
    try:
        with source.open("rb") as reader, output.open("wb") as writer:
            while chunk := reader.read(1 << 20):
                writer.write(chunk)
    except OSError as error:
        raise NoSpaceError(f"expected to copy {file.name}, got {error}") from error
    if has(output, file.length, file.sha256):
        return True
    output.unlink(missing_ok=True)
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _transport(pieces: list[_Piece]) -> Transport:
    return Transport.DELTA if any(piece.patch is not None for piece in pieces) else Transport.FULL
