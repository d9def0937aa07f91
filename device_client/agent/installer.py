"""The long steps of an update: preflight, fetch, verify, self-test, activate, roll back.

Each may be repeated after a power cut at any place and then ends in the same state. Each either returns or raises an
error of `core.errors`; none changes the journal's deployment, which is the machine's. What is staged is kept until the
deployment ends, so that a download goes on where it stopped.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from device_client.core import acceptance
from device_client.core.backoff import Backoff
from device_client.core.deployment import (
    Activated,
    Deployment,
    Fetched,
    FetchPlanned,
    Patch,
    PreflightPassed,
    RolledBack,
    SelfTestPassed,
    Target,
    Verified,
)
from device_client.core.errors import (
    CancelledError,
    DeviceError,
    DigestMismatchError,
    IncompatibleError,
    LoadError,
    NoSpaceError,
    PatchError,
    SlotDamagedError,
    StalledError,
    TicketError,
    TransferError,
)
from device_client.core.keys import PART, progress_key, serving_key
from device_client.core.profile import Profile
from device_client.ports import Clock, Downloads, Host, Journal, Patcher, Serving, Slots, Transfer
from device_client.wire.bundles import BundleFile, Contract, FileRole, Manifest
from device_client.wire.delta import Codec
from device_client.wire.errors import WireError
from device_client.wire.states import Transport

log = logging.getLogger(__name__)

SPARE_BYTES: Final = 16 * 2**20  # left free for everything else on the device
RETRIES: Final = Backoff(least_s=0.2, first_s=1.0, most_s=60.0)
PATCH: Final = ".patch."
MANIFEST_PART: Final = ".manifest"  # no file of a bundle can be called so: their names begin with a letter or digit


@dataclass(frozen=True)
class _Piece:
    """One file of the bundle that must come over the network: `patch` says whether as a delta."""

    file: BundleFile
    patch: Patch | None
    part: Path

    @property
    def length(self) -> int:
        return self.file.length if self.patch is None else self.patch.length

    @property
    def sha256(self) -> str:
        return self.file.sha256 if self.patch is None else self.patch.sha256


class Installer:
    """The steps of one device. Thread-safe as long as no two steps of one model run at once."""

    def __init__(
        self,
        *,
        profile: Profile,
        slots: Slots,
        downloads: Downloads,
        patcher: Patcher,
        host: Host,
        journal: Journal,
        clock: Clock,
        dice: Callable[[], float],
    ) -> None:
        self._profile = profile
        self._slots = slots
        self._downloads = downloads
        self._patcher = patcher
        self._host = host
        self._journal = journal
        self._clock = clock
        self._dice = dice

    def expect(self, model: str, contract: Contract) -> None:
        """From now on, only versions of `model` that fulfil `contract` are installed."""
        self._profile = replace(self._profile, contracts={**self._profile.contracts, model: contract})

    # ------------------------------------------------------------ preflight

    def preflight(self, deployment: Deployment) -> PreflightPassed:
        """Whether the bundle is on this device already; raises `NoSpaceError` or `IncompatibleError`."""
        aim = deployment.aim
        if self._slots.holds(deployment.model, aim.digest) is not None:
            try:
                slot = self._slots.open(deployment.model, aim.digest)
            except SlotDamagedError as error:
                log.warning("a retained slot is damaged and is fetched again: %s", error)
                self._slots.discard(deployment.model, aim.digest, slot=True)
            else:
                acceptance.suit(slot.manifest, aim.path, self._profile)
                return PreflightPassed(in_slot=True)
        if self._slots.free_bytes() < SPARE_BYTES:
            raise NoSpaceError(f"expected {SPARE_BYTES} free bytes, got {self._slots.free_bytes()}")
        return PreflightPassed(in_slot=False)

    # ------------------------------------------------------------ fetch

    def fetch(
        self, deployment: Deployment, announce: Callable[[FetchPlanned], None], cancelled: Callable[[], bool]
    ) -> Fetched:
        """Stage every file, retrying over a bad network until the policy's deadline.

        Raises `TicketError` when the director must be asked again, `CancelledError` when stopped.
        """
        attempt = 0
        while True:
            try:
                return self._fetch_once(deployment, announce, cancelled)
            except (TicketError, CancelledError):
                raise
            except TransferError as error:
                left = self._left_s(deployment)
                wait_s = RETRIES.wait_s(attempt, self._dice())
                if left <= wait_s:
                    raise
                log.info(
                    "download of %s %s: %s; again in %.1f s", deployment.model, deployment.aim.version, error, wait_s
                )
                self._pause(wait_s, cancelled)
                attempt += 1

    def _left_s(self, deployment: Deployment) -> float:
        return deployment.began_at + deployment.aim.policy.download_deadline_s - self._clock.now().timestamp()

    def _pause(self, seconds: float, cancelled: Callable[[], bool]) -> None:
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            if cancelled():
                raise CancelledError("stopped while waiting for the network")
            self._clock.sleep(min(left, 0.2))

    def _fetch_once(
        self, deployment: Deployment, announce: Callable[[FetchPlanned], None], cancelled: Callable[[], bool]
    ) -> Fetched:
        model, aim = deployment.model, deployment.aim
        staging = self._slots.staging(model, aim.digest)
        earlier = self._earlier(model, aim.digest)
        carried = sum(_size(staging / name) or _size(staging / name.removeprefix(PART)) for name in earlier.parts)
        manifest, manifest_bytes = self._manifest(deployment, staging, cancelled)
        acceptance.suit(manifest, aim.path, self._profile)
        pieces = self._plan(model, aim, manifest, staging, deltas=not earlier.delta_failed)
        begun = sum(_size(piece.part) for piece in pieces if piece.part.name in earlier.parts)
        total = aim.length + manifest.content_bytes
        self._require_space(pieces, manifest)
        transport = _transport(pieces)
        parts = {MANIFEST_PART: aim.length, **earlier.parts, **{piece.part.name: piece.length for piece in pieces}}
        self._note(model, aim.digest, transport, parts, delta_failed=earlier.delta_failed)
        announce(FetchPlanned(transport, total, begun))
        received = carried + manifest_bytes
        for piece in pieces:
            try:
                received += self._get(deployment, piece, staging, cancelled)
            except (PatchError, DigestMismatchError, TicketError) as error:
                if piece.patch is None:
                    raise
                log.warning("delta for %s %s failed, the full file is fetched: %s", model, aim.version, error)
                received += _size(piece.part)
                piece.part.unlink(missing_ok=True)
                whole = _Piece(piece.file, None, staging / f"{PART}{piece.file.name}")
                transport = Transport.FULL
                parts[whole.part.name] = whole.length
                self._note(model, aim.digest, transport, parts, delta_failed=True)
                announce(FetchPlanned(transport, total, begun))
                received += self._get(deployment, whole, staging, cancelled)
        return Fetched(transport, received, total)

    def _manifest(self, deployment: Deployment, staging: Path, cancelled: Callable[[], bool]) -> tuple[Manifest, int]:
        """The verified manifest, fetched unless it is staged; with the bytes that it took."""
        aim, part = deployment.aim, staging / MANIFEST_PART
        received = 0
        if not _has(part, aim.length, aim.digest):
            ticket = _ticket(aim, aim.digest)
            received = self._downloads.fetch(
                self._transfer(deployment, ticket, aim.digest, aim.length, part), cancelled
            ).received
        try:
            return Manifest.parse(part.read_bytes()), received
        except WireError as error:
            raise IncompatibleError(f"manifest of {aim.path}: {error}") from error

    def _plan(self, model: str, aim: Target, manifest: Manifest, staging: Path, *, deltas: bool) -> list[_Piece]:
        """What must come over the network: small files first. What is here already is copied."""
        pieces = []
        for file in sorted(manifest.files, key=lambda item: item.role is FileRole.WEIGHTS):
            if _has(staging / file.name, file.length, file.sha256):
                continue
            held = self._slots.blob(model, file.sha256)
            if held is not None and _copy(held, staging / file.name, file):
                continue
            patch = self._patch_for(model, aim, file) if deltas else None
            name = f"{PART if patch is None else PATCH}{file.name}"
            pieces.append(_Piece(file, patch, staging / name))
        return pieces

    def _patch_for(self, model: str, aim: Target, file: BundleFile) -> Patch | None:
        if file.role is not FileRole.WEIGHTS:
            return None
        held = frozenset(
            patch.old_sha256 for patch in aim.patches if self._slots.blob(model, patch.old_sha256) is not None
        )
        patch = acceptance.usable_patch(aim, file.sha256, held)
        return patch if patch is not None and patch.length < file.length and patch.sha256 in aim.tickets else None

    def _require_space(self, pieces: list[_Piece], manifest: Manifest) -> None:
        """Room for the files and for what patches need beside them."""
        needed = sum(piece.length + (piece.file.length if piece.patch else 0) - _size(piece.part) for piece in pieces)
        needed = max(needed, manifest.requirements.disk_bytes) + SPARE_BYTES
        free = self._slots.free_bytes()
        if free < needed:
            raise NoSpaceError(f"expected {needed} free bytes, got {free}")

    def _get(self, deployment: Deployment, piece: _Piece, staging: Path, cancelled: Callable[[], bool]) -> int:
        """One piece: fetched, and if it is a patch, applied. Returns the bytes that came."""
        aim, file = deployment.aim, piece.file
        ticket = _ticket(aim, piece.sha256)
        done = self._downloads.fetch(
            self._transfer(deployment, ticket, piece.sha256, piece.length, piece.part), cancelled
        )
        if piece.patch is None:
            piece.part.replace(staging / file.name)
            return done.received
        old = self._slots.blob(deployment.model, piece.patch.old_sha256)
        if old is None:
            raise PatchError(f"expected the blob {piece.patch.old_sha256[:16]} on this device, got none")
        output = staging / f".output.{file.name}"
        self._patcher.apply(Codec(piece.patch.codec), old, piece.part, output, file.length)
        if not _has(output, file.length, file.sha256):
            output.unlink(missing_ok=True)
            raise PatchError(f"expected the patch to make {file.sha256[:16]}, got other bytes")
        output.replace(staging / file.name)
        return done.received

    def _transfer(self, deployment: Deployment, ticket: str, digest: str, length: int, part: Path) -> Transfer:
        limits = (self._profile.bandwidth_bytes_per_s, deployment.aim.policy.download_bytes_per_s)
        left = self._left_s(deployment)
        if left <= 0:
            raise StalledError(f"expected the download within {deployment.aim.policy.download_deadline_s:g} s")
        return Transfer(
            url=ticket,
            sha256=digest,
            length=length,
            part=part,
            bytes_per_s=min((limit for limit in limits if limit > 0), default=0),
            deadline_s=left,
        )

    def _earlier(self, model: str, digest: str) -> "_Earlier":
        """What an interrupted fetch of the same digest left."""
        try:
            stored = json.loads(self._journal.recall(progress_key(model)) or "{}")
            if stored.get("digest") != digest:
                return _Earlier({}, delta_failed=False)
            return _Earlier(
                {str(k): int(v) for k, v in stored["parts"].items()}, delta_failed=bool(stored["delta_failed"])
            )
        except (ValueError, KeyError, AttributeError):
            return _Earlier({}, delta_failed=False)

    def _note(
        self, model: str, digest: str, transport: Transport, parts: Mapping[str, int], *, delta_failed: bool
    ) -> None:
        noted = {"digest": digest, "transport": transport.value, "parts": dict(parts), "delta_failed": delta_failed}
        self._journal.remember({progress_key(model): json.dumps(noted)})

    # ------------------------------------------------------------ verify, test, swap

    def verify(self, deployment: Deployment) -> Verified:
        """Make the staged files an immutable slot; raises `DigestMismatchError`."""
        model, aim = deployment.model, deployment.aim
        if self._slots.holds(model, aim.digest) is not None:
            return Verified()
        part = self._slots.staging(model, aim.digest) / MANIFEST_PART
        if not _has(part, aim.length, aim.digest):
            raise DigestMismatchError(f"expected the staged manifest {aim.digest[:16]}, got another or none")
        self._slots.publish(model, Manifest.parse(part.read_bytes()))
        return Verified()

    def self_test(self, deployment: Deployment) -> SelfTestPassed:
        """Load the slot beside the running model and ask its golden samples; raises `LoadError`, `SelfTestError`."""
        slot = self._slots.open(deployment.model, deployment.aim.digest)
        self._host.prepare(slot)
        golden = slot.manifest.file_of_role(FileRole.GOLDEN)
        if golden is not None:
            self._host.self_test(deployment.model, slot.digest, slot.files[golden.name])
        return SelfTestPassed()

    def activate(self, deployment: Deployment) -> Activated:
        """Point `current` at the slot, then switch new leases to it."""
        model, aim = deployment.model, deployment.aim
        if not self._host.prepared(model, aim.digest):
            self._host.prepare(self._slots.open(model, aim.digest))
        self._slots.point(model, current=aim.digest, previous=deployment.origin)
        self.adopt(deployment)
        return Activated()

    def adopt(self, deployment: Deployment) -> None:
        """Serve the current slot under the deployment's label."""
        serving = serving_of(deployment.model, deployment.aim)
        self._journal.remember({serving_key(deployment.model): _encode(serving)})
        self._host.switch(serving)

    # ------------------------------------------------------------ what runs, and going back

    def serve_current(self, model: str, deployment: Deployment) -> None:
        """At start: load what `current` names. Raises `SlotDamagedError` or `LoadError`; no slot is no error."""
        current = self._slots.links(model).current
        if not current:
            self._host.switch(Serving(model, "", ""))
            return
        slot = self._slots.open(model, current)
        self._host.prepare(slot)
        self._host.switch(self._label(model, slot.manifest, deployment))

    def _label(self, model: str, manifest: Manifest, deployment: Deployment | None = None) -> Serving:
        """Under which revision and parameters a slot is served: as remembered, else as its manifest says."""
        digest = manifest.digest
        if deployment is not None and deployment.target is not None and deployment.target.digest == digest:
            return serving_of(model, deployment.target)
        stored = _decode(self._journal.recall(serving_key(model)))
        if stored is not None and stored.digest == digest:
            return stored
        return Serving(model, manifest.version, digest, reason="the slot that this device had before")

    def roll_back(self, deployment: Deployment) -> RolledBack:
        """Undo what the deployment changed; the answer names what is active then (empty: fallback or nothing)."""
        model = deployment.model
        bad = deployment.target.digest if deployment.target is not None else ""
        links = self._slots.links(model)
        if bad and links.current != bad:
            self._host.forget(model, bad)
            self._slots.discard(model, bad)
            if links.current and self._host.serving(model) is None:
                return self._serve_first(model, [links.current, links.previous, links.factory], bad)
            return RolledBack(links.current)
        current = [] if bad else [links.current]
        return self._serve_first(
            model, [deployment.origin, links.previous, *current, deployment.proven, links.factory], bad
        )

    def _serve_first(self, model: str, candidates: list[str], bad: str) -> RolledBack:
        """Make the first loadable candidate current."""
        for digest in dict.fromkeys(item for item in candidates if item and item != bad):
            if self._slots.holds(model, digest) is None:
                continue
            try:
                slot = self._slots.open(model, digest)
                self._host.prepare(slot)
            except (SlotDamagedError, LoadError) as error:
                log.warning("slot %s of %s cannot be served: %s", digest[:16], model, error)
                continue
            links = self._slots.links(model)
            previous = links.previous if links.previous not in {digest, bad} else ""
            self._slots.point(model, current=digest, previous=previous)
            serving = self._label(model, slot.manifest)
            self._journal.remember({serving_key(model): _encode(serving)})
            self._host.switch(serving)
            return RolledBack(digest)
        self._slots.point(model, current="", previous="")
        self._host.switch(Serving(model, "", ""))
        return RolledBack("")

    def drop_damaged(self, model: str, digest: str) -> None:
        """Remove a slot whose bytes are no longer what its name says, so that it can be fetched again."""
        self._slots.discard(model, digest, slot=True)


@dataclass(frozen=True)
class _Earlier:
    parts: Mapping[str, int]
    delta_failed: bool


def serving_of(model: str, target: Target) -> Serving:
    """The label of an assignment."""
    return Serving(
        model=model,
        version=target.version,
        digest=target.digest,
        revision=target.revision,
        rollout=target.rollout,
        reason=target.reason,
        slow_ms=target.policy.slow_ms,
        window_s=target.policy.window_s,
        parameters=target.parameters,
    )


def _encode(serving: Serving) -> str:
    return json.dumps({**serving.__dict__, "parameters": dict(serving.parameters)})


def _decode(text: str | None) -> Serving | None:
    if text is None:
        return None
    try:
        return replace(Serving("", "", ""), **json.loads(text))
    except (ValueError, TypeError):
        return None


def _ticket(aim: Target, digest: str) -> str:
    ticket = aim.tickets.get(digest)
    if ticket is None:
        raise TicketError(f"expected a ticket for {digest[:16]}, got none")
    return ticket


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _has(path: Path, length: int, digest: str) -> bool:
    """Whether a staged file is complete and right."""
    if _size(path) != length:
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
        output.write_bytes(source.read_bytes())
    except OSError as error:
        raise NoSpaceError(f"expected to copy {file.name}, got {error}") from error
    if _has(output, file.length, file.sha256):
        return True
    output.unlink(missing_ok=True)
    return False


def _transport(pieces: list[_Piece]) -> Transport:
    if any(piece.patch is not None for piece in pieces):
        return Transport.DELTA
    return Transport.FULL if pieces else Transport.NONE


def failure_of(error: Exception) -> DeviceError:
    """Any exception of a step as one of ours: what nobody foresaw is internal and is not held against the version."""
    if isinstance(error, DeviceError):
        return error
    if isinstance(error, OSError) and error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return NoSpaceError(str(error))
    return DeviceError(f"{type(error).__name__}: {error}"[:300])
