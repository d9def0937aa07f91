"""How the files of a bundle come into staging: what is here is copied, what fits a patch is patched, the rest is fetched.

Deltas are tried smallest first; each that fails is noted, so that no later attempt and no restart tries it again, and the
next one or the full file follows. What is staged is kept until the deployment ends: a download goes on where it stopped.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from device_client.agent.pieces import STREAMED, Piece, Progress, Way, has, remove, size
from device_client.core import acceptance
from device_client.core.backoff import Backoff
from device_client.core.deployment import Deployment, Fetched, FetchPlanned, Patch, Target
from device_client.core.errors import (
    CancelledError,
    DigestMismatchError,
    GoneError,
    IncompatibleError,
    KilledError,
    NoSpaceError,
    PatchError,
    ShortBodyError,
    SlotDamagedError,
    StalledError,
    TicketError,
    TransferError,
)
from device_client.core.keys import PART, STREAM, progress_key
from device_client.core.profile import Profile
from device_client.core.room import Room
from device_client.ports import Clock, Downloads, Journal, Patcher, PatchJob, Slots, Transfer
from device_client.wire.bundles import BundleFile, FileRole, Manifest
from device_client.wire.delta import Codec
from device_client.wire.errors import WireError
from device_client.wire.states import Transport

log = logging.getLogger(__name__)

RETRIES: Final = Backoff(least_s=0.2, first_s=1.0, most_s=60.0)
MANIFEST_PART: Final = ".manifest"  # no file of a bundle can be called so: their names begin with a letter or digit


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
        room: Room,
    ) -> None:
        self.room = room
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
        self._progress = Progress.parse(self._journal.recall(progress_key(self._model)), self._aim.digest)

    def run(self) -> Fetched:
        """Stage what is missing."""
        progress = self._progress
        before = frozenset(progress.parts)
        received = sum(self._staged_bytes(name) for name in before)
        manifest, manifest_bytes = self._manifest()
        received += manifest_bytes
        acceptance.suit(manifest, self._aim.path, self._profile)
        pieces = self._fitting(self._plan(manifest), manifest)
        total = self._aim.length + manifest.content_bytes
        begun = sum(self._held(piece) for piece in pieces if piece.part.name in before)
        progress.parts = {MANIFEST_PART: self._aim.length, **progress.parts}
        if pieces:
            progress.transport = _transport(pieces)
        self._note(pieces, total, begun)
        for piece in pieces:
            received += self._bring(piece, manifest, total, begun)
        return Fetched(progress.transport, received, total, progress.codec, self._fallbacks)

    def _bring(self, wanted: Piece, manifest: Manifest, total: int, begun: int) -> int:
        """One piece by whichever way works; returns the bytes that came."""
        received, piece = 0, wanted
        while True:
            held = self._held(piece)
            try:
                return received + self._get(piece)
            except (PatchError, DigestMismatchError, GoneError, KilledError, ShortBodyError) as error:
                if piece.patch is None:
                    raise
                if self._progress.counts(error):
                    self._note([piece], total, begun)
                    raise
                log.warning("a %s patch for %s %s failed: %s", piece.patch.codec, self._model, self._aim.version, error)
                received += max(0, self._held(piece) - held)
                remove(piece.part)
                remove(piece.work)
                if piece.way is Way.STREAM and held and isinstance(error, PatchError):
                    # What was there may have been torn, or of another patch: once more, from nothing.
                    continue
                self._progress.failed[piece.patch.sha256] = piece.patch.codec
            wanted = self._piece(piece.file)
            self._progress.transport = _transport([wanted])
            self._note([wanted], total, begun)
            (piece,) = self._fitting([wanted], manifest)
            if piece != wanted:
                self._note([piece], total, begun)

    @property
    def _fallbacks(self) -> tuple[str, ...]:
        return tuple(self._progress.failed.values())

    def _note(self, pieces: list[Piece], total: int, begun: int) -> None:
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

    def _plan(self, manifest: Manifest) -> list[Piece]:
        """What must come over the network: small files first. What is here already is copied."""
        pieces = []
        for file in sorted(manifest.files, key=lambda item: item.role is FileRole.WEIGHTS):
            if has(self._staging / file.name, file.length, file.sha256):
                continue
            held = self._slots.blob(self._model, file.sha256)
            if held is None or not _copy(held, self._staging / file.name, file):
                pieces.append(self._piece(file))
        return pieces

    def _piece(self, file: BundleFile) -> Piece:
        """The cheapest way to a file that has not failed yet."""
        begun = self._progress.in_place
        if begun is not None and begun.new_sha256 == file.sha256 and begun.sha256 not in self._progress.failed:
            piece = Piece(file, begun, Way.IN_PLACE, self._staging)
            if piece.begun_in_place:
                return piece
        patch = next(iter(self._patches(file)), None)
        if patch is None:
            return Piece(file, None, Way.FULL, self._staging)
        return Piece(file, patch, Way.STREAM if patch.codec in STREAMED else Way.PATCH, self._staging)

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

    def _fitting(self, pieces: list[Piece], manifest: Manifest) -> list[Piece]:
        """The pieces by ways for which there is room: in place where its owner allows that and nothing else fits."""
        if not pieces or any(piece.begun_in_place for piece in pieces):
            return pieces  # what is done in place took its room before it began, and there is no way back
        needed, free = self._needed_bytes(pieces), self._slots.free_bytes()
        if free >= max(needed, manifest.requirements.disk_bytes) + self._fetcher.room.spare_bytes:
            return pieces
        tight = [
            replace(piece, way=Way.IN_PLACE)
            if piece.way is Way.STREAM and piece.file.role is FileRole.WEIGHTS
            else piece
            for piece in pieces
        ]
        if (
            self._profile.capabilities.in_place
            and tight != pieces
            and free >= self._needed_bytes(tight) + self._fetcher.room.spare_bytes
        ):
            self._progress.in_place = next(piece.patch for piece in tight if piece.way is Way.IN_PLACE)
            return tight
        raise NoSpaceError(f"expected {needed + self._fetcher.room.spare_bytes} free bytes, got {free}")

    def _needed_bytes(self, pieces: list[Piece]) -> int:
        return sum(piece.needed_bytes(self._old_bytes(piece), self._fetcher.room.beside_bytes) for piece in pieces)

    def _old_bytes(self, piece: Piece) -> int:
        old = None if piece.patch is None else self._slots.blob(self._model, piece.patch.old_sha256)
        return 0 if old is None else size(old)

    def _held(self, piece: Piece) -> int:
        """The bytes of a piece that are here, or have been used up, already."""
        return self._patcher.taken(piece.work) if piece.way is Way.STREAM else size(piece.part)

    def _get(self, piece: Piece) -> int:
        """One piece: fetched, and if it is a patch, applied. Returns the bytes that came."""
        file, patch = piece.file, piece.patch

        def transfer() -> Transfer:
            return self._transfer(piece.sha256, piece.length)

        if patch is None:
            received = self._downloads.fetch(transfer(), piece.part, self._cancelled).received
            piece.part.replace(self._staging / file.name)
            return received
        job = self._job(piece, patch)
        received = 0
        if piece.way is Way.STREAM:
            received = self._patcher.stream(
                job, lambda start: self._downloads.stream(transfer(), start, self._cancelled), self._cancelled
            )
        elif not has(piece.part, patch.length, patch.sha256):
            received = self._downloads.fetch(transfer(), piece.part, self._cancelled).received
        if piece.way is Way.PATCH:
            self._patcher.apply(job, piece.part)
        elif piece.way is Way.IN_PLACE:
            self._patcher.apply_in_place(job, piece.part, lambda: self._give_up(job), self._cancelled)
        if not has(job.output, file.length, file.sha256):
            job.output.unlink(missing_ok=True)
            raise PatchError(f"expected the patch to make {file.sha256[:16]}, got other bytes")
        job.output.replace(self._staging / file.name)
        return received

    def _job(self, piece: Piece, patch: Patch) -> PatchJob:
        """The work to do. What a power cut interrupted in the middle of giving up the old file is ended first."""
        old = self._slots.blob(self._model, patch.old_sha256)
        if old is None and piece.way is not Way.IN_PLACE:
            raise PatchError(f"expected the blob {patch.old_sha256[:16]} on this device, got none")
        job = PatchJob(
            codec=Codec(patch.codec),
            patch_sha256=patch.sha256,
            patch_bytes=patch.length,
            old=old or piece.work / "output",
            old_sha256=patch.old_sha256,
            new_sha256=piece.file.sha256,
            new_bytes=piece.file.length,
            work=piece.work,
        )
        if old is None:
            self._give_up(job)
        return job

    def _give_up(self, job: PatchJob) -> None:
        try:
            self._slots.give_up(self._model, job.old_sha256, job.output)
        except (SlotDamagedError, OSError) as error:
            raise PatchError(f"expected the blob {job.old_sha256[:16]} on this device, got {error}") from error

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


def _transport(pieces: list[Piece]) -> Transport:
    return Transport.DELTA if any(piece.patch is not None for piece in pieces) else Transport.FULL
