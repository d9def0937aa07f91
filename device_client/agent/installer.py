"""The long steps of an update: preflight, fetch (`agent.fetcher`), verify, self-test, activate, roll back.

Each may be repeated after a power cut at any place and then ends in the same state. Each either returns or raises an
error of `core.errors`; none changes the journal's deployment, which is the machine's. What is staged is kept until the
deployment ends, so that a download goes on where it stopped.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import replace

from device_client.agent.fetcher import MANIFEST_PART, Fetcher
from device_client.agent.pieces import has
from device_client.core import acceptance
from device_client.core.deployment import (
    Activated,
    Deployment,
    Fetched,
    FetchPlanned,
    PreflightPassed,
    RolledBack,
    SelfTestPassed,
    Target,
    Verified,
)
from device_client.core.errors import (
    DeviceError,
    DigestMismatchError,
    LoadError,
    NoSpaceError,
    SlotDamagedError,
)
from device_client.core.keys import serving_key
from device_client.core.profile import Profile
from device_client.core.room import Room
from device_client.ports import Clock, Downloads, Host, Journal, OpenSlot, Patcher, Serving, Slots
from device_client.wire.bundles import Contract, FileRole, Manifest

log = logging.getLogger(__name__)


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
        room: Room | None = None,
    ) -> None:
        self._profile = profile
        self._slots = slots
        self._host = host
        self._journal = journal
        self._clock = clock
        self._room = room or Room()
        self._fetcher = Fetcher(
            slots=slots, downloads=downloads, patcher=patcher, journal=journal, clock=clock, dice=dice, room=self._room
        )

    def expect(self, model: str, contract: Contract) -> None:
        """From now on, only versions of `model` that fulfil `contract` are installed."""
        self._profile = replace(self._profile, contracts={**self._profile.contracts, model: contract})

    # ------------------------------------------------------------ preflight

    def preflight(self, deployment: Deployment) -> PreflightPassed:
        """Whether the bundle is on this device already; raises `NoSpaceError` or `IncompatibleError`.

        What another update has left for later gives way to this one.
        """
        aim = deployment.aim
        self._slots.collect(deployment.model, frozenset({aim.digest}))
        if self._slots.holds(deployment.model, aim.digest) is not None:
            try:
                slot = self._slots.open(deployment.model, aim.digest)
            except SlotDamagedError as error:
                log.warning("a retained slot is damaged and is fetched again: %s", error)
                self._slots.discard(deployment.model, aim.digest, slot=True)
            else:
                acceptance.suit(slot.manifest, aim.path, self._profile)
                return PreflightPassed(in_slot=True)
        if self._slots.free_bytes() < self._room.spare_bytes:
            raise NoSpaceError(f"expected {self._room.spare_bytes} free bytes, got {self._slots.free_bytes()}")
        return PreflightPassed(in_slot=False)

    # ------------------------------------------------------------ fetch

    def fetch(
        self, deployment: Deployment, announce: Callable[[FetchPlanned], None], cancelled: Callable[[], bool]
    ) -> Fetched:
        """Stage every file, retrying over a bad network until the policy's deadline.

        Raises `TicketError` when the director must be asked again, `CancelledError` when stopped.
        """
        return self._fetcher.fetch(deployment, self._profile, announce, cancelled)

    def bring(self, model: str, target: Target, cancelled: Callable[[], bool]) -> OpenSlot:
        """A verified slot beside what is served, which nothing points at; raises as the steps of an update do."""
        aside = Deployment(model, target=target, began_at=max(0.0, self._clock.now().timestamp()))
        if not self.preflight(aside).in_slot:
            self._fetcher.fetch(aside, self._profile, lambda _: None, cancelled)
            self.verify(aside)
        return self._slots.open(model, target.digest)

    # ------------------------------------------------------------ verify, test, swap

    def verify(self, deployment: Deployment) -> Verified:
        """Make the staged files an immutable slot; raises `DigestMismatchError`."""
        model, aim = deployment.model, deployment.aim
        if self._slots.holds(model, aim.digest) is not None:
            return Verified()
        part = self._slots.staging(model, aim.digest) / MANIFEST_PART
        if not has(part, aim.length, aim.digest):
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

    def last_served(self, model: str) -> Serving | None:
        """The label under which the current slot was last served; None if there is none, or it was never served."""
        stored, current = _decode(self._journal.recall(serving_key(model))), self._slots.links(model).current
        return stored if stored is not None and stored.digest == current != "" else None

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


def failure_of(error: Exception) -> DeviceError:
    """Any exception of a step as one of ours: what nobody foresaw is internal and is not held against the version."""
    if isinstance(error, DeviceError):
        return error
    if isinstance(error, OSError) and error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return NoSpaceError(str(error))
    return DeviceError(f"{type(error).__name__}: {error}"[:300])
