"""What the registry hands out: values, never rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from device_client.wire.bundles import Manifest
from device_client.wire.names import VariantName
from fleet.domain.delta_states import DeltaState
from fleet.domain.quiet import QuietHours


class VersionState(StrEnum):
    """Where a version stands. Only published ones can be rolled out."""

    PUBLISHING = "publishing"
    PUBLISHED = "published"
    REVOKED = "revoked"


@dataclass(frozen=True)
class NamespaceRecord:
    """A team's area."""

    name: str
    profile: str
    created_at: datetime
    approvals: int = 0
    quiet: QuietHours = field(default_factory=QuietHours)


@dataclass(frozen=True)
class ModelRecord:
    """A model and where it stands."""

    name: str
    namespace: str
    profile: str
    plan_key: str
    description: str
    created_at: datetime


@dataclass(frozen=True)
class VariantRecord:
    """One build of a version. `digest` is what devices attest; the manifest's bytes are what it is the sha256 of."""

    slug: str
    name: VariantName
    digest: str
    manifest: Manifest
    manifest_bytes: bytes
    content_bytes: int
    format: str
    inspection: Mapping[str, object]

    @property
    def weights_sha256(self) -> str:
        """The blob that deltas are made for."""
        return self.manifest.weights.sha256


@dataclass(frozen=True)
class VersionRecord:
    """One immutable release of a model."""

    id: int
    model: str
    label: str
    number: int
    state: VersionState
    role_version: int
    notes: str
    git_sha: str
    metadata: Mapping[str, object]
    created_by: str
    created_at: datetime
    published_at: datetime | None
    variants: tuple[VariantRecord, ...] = field(default=())

    def variant(self, slug: str) -> VariantRecord | None:
        """The variant of a slug, or None."""
        return next((item for item in self.variants if item.slug == slug), None)


@dataclass(frozen=True)
class NamedVariant:
    """A variant by its names. `format` is that of its weights, such as `onnx`."""

    digest: str
    model: str
    version: str
    slug: str
    format: str


@dataclass(frozen=True)
class AliasRecord:
    """A movable name for a version."""

    model: str
    name: str
    version: str
    updated_at: datetime


@dataclass(frozen=True)
class UploadRecord:
    """Where an upload stands: the sender goes on at `received`; `complete` blobs are in the store."""

    sha256: str
    length: int
    received: int
    complete: bool


@dataclass(frozen=True)
class DeltaRecord:
    """A patch between two weights files. `patch_*` are set while it is ready, `made_bytes` once one was made.

    `devices` could use it when it was asked for.
    """

    old_sha256: str
    new_sha256: str
    codec: str
    state: DeltaState
    patch_sha256: str | None
    patch_bytes: int | None
    made_bytes: int | None
    new_bytes: int
    devices: int
    build_s: float | None
    cpu_s: float | None
    detail: str


@dataclass(frozen=True)
class DeltaCount:
    """How many deltas of one codec stand in one state, and the bytes of the patches that are kept."""

    codec: str
    state: str
    count: int
    patch_bytes: int


@dataclass(frozen=True)
class DeltaSavings:
    """What deltas to the variants of one model save, a download each: sums over pairs of files that have a ready delta.

    Of several codecs the smallest patch counts.
    """

    ready: int
    queued: int
    useless: int
    failed: int
    left_out: int
    expired: int
    patch_bytes: int
    full_bytes: int
