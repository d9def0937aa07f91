"""What the client needs of the outside world, as protocols, and the values that pass through them.

Every method that can fail raises an error of `core.errors`; adapters translate. Methods marked *durable* have reached
the disk when they return: a power cut afterwards does not take them back.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from device_client.core.acceptance import DirectorAnswer
from device_client.core.deployment import Deployment, Target
from device_client.core.probation import Activity
from device_client.core.renewal import Validity
from device_client.core.vitals import Window
from device_client.wire.bundles import Manifest
from device_client.wire.delta import Codec
from device_client.wire.messages import BundleMessage, Denied, Label, MessageKey
from device_client.wire.shadow import ShadowBudget
from device_client.wire.topics import Up

Draft = Callable[[MessageKey], bytes]  # a message that lacks only its number


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """The wall clock, in UTC. It may be wrong; the journal's time floor says from when on it cannot be right."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class Broker(Protocol):
    """The connection to the broker, which reconnects by itself."""

    def start(self, received: Callable[[str, bytes], None], connected: Callable[[bool], None]) -> None:
        """Connect in the background. Both callbacks come from a thread of the adapter and must return quickly.

        `connected(True)` is said once what is sent to the device's own topics reaches it, and after each reconnection.
        """

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send at least once while connected; False if there is no connection."""

    def subscribe(self, topic: str) -> None:
        """Receive `topic` from now on, over reconnections too."""

    def renew_identity(self) -> None:
        """From now on, connect with the certificate that is on disk now; a connection that stands is made anew."""

    def stop(self) -> None:
        """Say goodbye and disconnect."""


class Identity(Protocol):
    """The certificate by which the broker knows this device."""

    def validity(self) -> Validity:
        """Of the certificate on disk; raises `ConfigError`."""

    def renew(self) -> Validity:
        """Get a certificate over the same key and keep it (*durable*); raises `EnrolmentError` and changes nothing."""


class Trust(Protocol):
    """The two repositories, as this device has verified them."""

    def accept(self, bundle: BundleMessage, nonce: str) -> DirectorAnswer:
        """Verify a director's bundle and keep its metadata (*durable*) if it is bound to this device and nonce."""

    def authorise(self, target: Target) -> None:
        """Verify that the image repository, refreshed now, lists exactly `target`; raises `TrustError`."""


@dataclass(frozen=True)
class Transfer:
    """One file to fetch: `length` and `sha256` are signed."""

    url: str
    sha256: str
    length: int
    bytes_per_s: int = 0
    deadline_s: float = 86_400.0


@dataclass(frozen=True)
class Transferred:
    """`received` bytes came over the network in this call; the first `resumed_from` were in `part` before."""

    received: int
    resumed_from: int


class Downloads(Protocol):
    """Bytes by HTTP."""

    def fetch(self, transfer: Transfer, part: Path, cancelled: Callable[[], bool]) -> Transferred:
        """Complete `part`, which may hold a beginning, and check its hash (*durable*).

        Raises `TransferError` or `DigestMismatchError`.
        """

    def stream(self, transfer: Transfer, start: int, cancelled: Callable[[], bool]) -> Iterator[bytes]:
        """The bytes from `start` on as they come. Exactly as many as announced come, but their hash is not checked.

        Raises `TransferError` or `DigestMismatchError` (another length was announced).
        """


@dataclass(frozen=True)
class PatchJob:
    """A patch between two weights files, as signed: `old` should have the content `old_sha256`.

    `work` is a directory for whatever the application needs over restarts; the new file is `work/output` in the end.
    """

    codec: Codec
    patch_sha256: str
    patch_bytes: int
    old: Path
    old_sha256: str
    new_sha256: str
    new_bytes: int
    work: Path

    @property
    def output(self) -> Path:
        """The new file. Whoever asked for it checks its hash."""
        return self.work / "output"


class Patcher(Protocol):
    """Deltas, applied where a hostile patch can do no harm. All raise `PatchError`, or `NoSpaceError` on a full disk."""

    def apply(self, job: PatchJob, patch: Path) -> None:
        """Apply a patch that is here as a whole."""

    def stream(self, job: PatchJob, feed: Callable[[int], Iterator[bytes]], cancelled: Callable[[], bool]) -> int:
        """Apply a `tensor1` patch while it comes, from where an earlier call stopped; returns the bytes that came.

        `feed(start)` gives the patch from that byte on; what it raises is raised here, and what was made is kept.
        """

    def apply_in_place(
        self, job: PatchJob, patch: Path, give_up: Callable[[], None], cancelled: Callable[[], bool]
    ) -> None:
        """Turn the old file into the new one where room is for one only; goes on where an earlier call was cut.

        The patch is proved on the old file first, and an error up to then has changed nothing. Then `give_up` is called,
        which moves the old file to `job.output`; from there on only the disk can fail, and nothing is cancelled.
        """

    def taken(self, work: Path) -> int:
        """How many bytes of a streamed patch earlier calls have used up."""


@dataclass(frozen=True)
class Links:
    """The digests that a model's symlinks name; empty where there is none."""

    current: str = ""
    previous: str = ""
    factory: str = ""


@dataclass(frozen=True)
class OpenSlot:
    """A slot whose every byte was checked against its digest while it was read into memory."""

    manifest: Manifest
    digest: str
    files: Mapping[str, bytes] = field(default_factory=dict)


class Slots(Protocol):
    """Immutable directories named by digest, and the symlinks that name the current one."""

    def links(self, model: str) -> Links:
        """What the symlinks say now."""

    def holds(self, model: str, digest: str) -> Manifest | None:
        """The manifest of a complete slot, or None. Contents are not hashed again."""

    def open(self, model: str, digest: str) -> OpenSlot:
        """Read and re-hash the slot; raises `SlotDamagedError`."""

    def blob(self, model: str, sha256: str) -> Path | None:
        """A file of a slot that should have this content."""

    def staging(self, model: str, digest: str) -> Path:
        """The private directory in which the slot is prepared; made if missing."""

    def give_up(self, model: str, sha256: str, output: Path) -> None:
        """Move the file with this content to `output` and remove the slot that it belonged to (*durable*).

        Called again after a power cut, it ends what it had begun. `output` lies in a staging directory.
        """

    def publish(self, model: str, manifest: Manifest) -> None:
        """Check the staged files against the manifest and make them the slot (*durable*)."""

    def point(self, model: str, *, current: str, previous: str) -> None:
        """Swap the symlinks, `previous` first (*durable*). An empty digest removes a link."""

    def discard(self, model: str, digest: str, *, slot: bool = False) -> None:
        """Remove what is staged, and with `slot` the slot itself."""

    def collect(self, model: str, keep: frozenset[str]) -> None:
        """Remove every slot and staging directory but those that are linked or in `keep`."""

    def free_bytes(self) -> int:
        """What the disk still takes."""


class Journal(Protocol):
    """What must be known after a power cut. Every write is *durable* and whole."""

    def deployments(self) -> Mapping[str, Deployment]:
        """The last recorded state per model; what cannot be read is there as a deployment that is rolling back."""

    def record(
        self, deployment: Deployment, reports: Sequence[tuple[Up, Draft]] = (), denied: Sequence[Denied] = ()
    ) -> None:
        """One transaction: the new state, what the server is told of it, and what is denied from now on."""

    def denied(self, model: str) -> tuple[Denied, ...]:
        """What failed here."""

    def recall(self, key: str) -> str | None:
        """A remembered value."""

    def remember(self, values: Mapping[str, str]) -> None:
        """Remember values, all or none."""

    def take_requests(self) -> Sequence[str]:
        """The models for which a person at the device has asked for the previous version; each is given once."""


@dataclass(frozen=True)
class Pending:
    """A message that the server has not acknowledged."""

    key: MessageKey
    kind: Up
    payload: bytes


class Outbox(Protocol):
    """Messages that must reach the server, kept until it says that they are durable there."""

    def add(self, messages: Sequence[tuple[Up, Draft]], *, lost: int = 0) -> None:
        """Keep (*durable*), and make room by merging or dropping the oldest windows, which is counted.

        `lost` messages came before these and could not be kept; they are counted, too. Raises `StorageError`.
        """

    def pending(self, limit: int, *, beyond: Iterable[int] = ()) -> Sequence[Pending]:
        """The oldest messages whose number is not in `beyond`."""

    def sent(self, seqs: Sequence[int]) -> None:
        """These were handed to the broker: they may be known there, so they are never merged."""

    def acknowledge(self, boot: str, seqs: Sequence[int]) -> int:
        """Forget exactly these; returns how many were known."""

    def depth(self) -> int:
        """How many wait."""


@dataclass(frozen=True)
class Probe:
    """What a runtime says of itself."""

    version: str
    max_opset: int = 0
    max_ir_version: int = 0
    accelerators: tuple[str, ...] = ()


class LoadedModel(Protocol):
    """A model in memory."""

    def infer(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run once. Inputs and outputs are arrays by name; raises whatever the runtime raises."""

    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself."""

    def close(self) -> None:
        """Free it. Nothing is inferring any more."""


class Runtime(Protocol):
    """An inference runtime."""

    @property
    def name(self) -> str:
        """Its name in variants: `onnx`."""

    def probe(self) -> Probe:
        """What this installation can do."""

    def load(self, weights: bytes, manifest: Manifest) -> LoadedModel:
        """Load from memory, so that the bytes that were hashed are the bytes that run; raises `LoadError`."""


@dataclass(frozen=True)
class Serving:
    """What new leases of a model get: the label under which inferences are counted, and why it runs."""

    model: str
    version: str
    digest: str
    revision: int = 0
    rollout: str = ""
    reason: str = ""
    slow_ms: float = 100.0
    window_s: float = 60.0
    parameters: Mapping[str, str] = field(default_factory=dict)


class Host(Protocol):
    """Where models run: the application's process. Swaps happen between leases."""

    def prepare(self, slot: OpenSlot) -> None:
        """Load beside what runs and warm up; raises `LoadError`. Nothing is served from it yet."""

    def prepared(self, model: str, digest: str) -> bool:
        """Whether this version is in memory, served or not."""

    def self_test(self, model: str, digest: str, golden: bytes) -> None:
        """Ask the prepared model its golden samples; raises `SelfTestError`."""

    def switch(self, serving: Serving) -> None:
        """New leases get the prepared model, or the same one under a new label; the old one is drained and freed.

        With an empty digest: the application's own fallback, or nothing.
        """

    def forget(self, model: str, digest: str) -> None:
        """Free a prepared model that will not be served."""

    def activity(self, model: str) -> Activity:
        """What happened since the last switch to other bytes."""

    def serving(self, model: str) -> Serving | None:
        """What new leases get, or None if there is nothing to lease."""

    def shadow(self, model: str, slot: OpenSlot | None, budget: ShadowBudget, kept: str = "") -> None:
        """Run this slot beside what is served, within the budget; None ends what runs. The same one goes on.

        `kept` is what `shadow_memory` last said.
        """

    def shadowing(self, model: str) -> tuple[str, ShadowBudget] | None:
        """The digest of what runs beside what is served, and its budget."""

    def shadow_memory(self, model: str) -> str | None:
        """What has to outlive a restart for labels that come later; None if that is as it was."""


@dataclass(frozen=True)
class ShadowAnswer:
    """What became of one inference that a shadow was offered. `top` is the place of its highest score.

    `failed`: the candidate raised, crashed or hung. `skipped`: there was no memory or no time left for it. `latency_ms` is
    without the time in which other processes had the processor; None where that cannot be told.
    """

    nonce: str
    top: int | None = None
    latency_ms: float | None = None
    is_nan: bool = False
    failed: bool = False
    skipped: bool = False


class Offered(Enum):
    """What a shadow does with an inference that it is offered."""

    PASSED = "passed"  # it is not among those that are chosen
    CHOSEN = "chosen"  # its answer will come
    SKIPPED = "skipped"  # it was chosen, but there is no budget for it


class ShadowRun(Protocol):
    """One candidate at work. Nothing that it does can make the caller wait."""

    def offer(self, inputs: Mapping[str, Any], nonce: str) -> Offered:
        """Offer one inference's inputs, which are copied."""

    def stop(self) -> None:
        """End it, and free what it holds."""


class ShadowRuns(Protocol):
    """Where candidates run: never in the process that serves."""

    def start(self, slot: OpenSlot, budget: ShadowBudget, answered: Callable[[ShadowAnswer], None]) -> ShadowRun:
        """Start one; `answered` is called from another thread, once for each inference that was chosen."""


class Meter(Protocol):
    """What the application did with its models since it was last asked."""

    def updating(self, model: str, *, under_way: bool) -> None:
        """Windows that overlap an update are marked."""

    def crashed(self, serving: Serving) -> None:
        """The process that served this ended without a stop: a window of its own, over at once."""

    def take_windows(self, *, everything: bool = False) -> Sequence[tuple[Window, float]]:
        """Windows that are over (or, at the end, all of them) with the times at which they ended."""

    def take_labels(self) -> Sequence[Label]:
        """Labels that the application has handed in."""
