"""What the trust app hands out: values, never rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from securesystemslib.signer import Key


class Repository(StrEnum):
    """Which of the two TUF repositories."""

    IMAGE = "image"
    DIRECTOR = "director"


@dataclass(frozen=True)
class RoleRecord:
    """One version of one role, byte for byte. `published` is false while it waits for the publisher."""

    repository: Repository
    role: str
    version: int
    payload: bytes
    published: bool
    expires_at: datetime
    created_at: datetime


@dataclass(frozen=True)
class RoleState:
    """Where a role stands: its newest version and when it expires."""

    repository: Repository
    role: str
    version: int
    published_version: int | None
    expires_at: datetime


@dataclass(frozen=True)
class TrustState:
    """Whether the installation can release and assign, and which roles expire when."""

    roots_imported: bool
    roles: tuple[RoleState, ...] = ()

    def expiring(self, before: datetime) -> tuple[RoleState, ...]:
        """The roles that expire before a moment, the first one first."""
        return tuple(sorted((r for r in self.roles if r.expires_at < before), key=lambda r: r.expires_at))


@dataclass(frozen=True)
class DirectorTarget:
    """One target that the director names for a device. `custom` is its encoded meaning (`wire.director`)."""

    path: str
    length: int
    sha256: str
    custom: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ClaimRecord:
    """A single-use right to enrol one device. The token itself is shown once and not kept."""

    id: int
    device_id: str
    hardware_class: str
    attributes: Mapping[str, str]
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


@dataclass(frozen=True)
class Enrolment:
    """The outcome of a redeemed claim: who the device is from now on, and its certificate."""

    device_id: str
    hardware_class: str
    attributes: Mapping[str, str]
    certificate_serial: str
    not_after_at: datetime
    pkcs7_der: bytes


@dataclass(frozen=True)
class Renewal:
    """A further certificate for a device that holds the key of an earlier one."""

    device_id: str
    certificate_serial: str
    not_after_at: datetime
    pkcs7_der: bytes


@dataclass(frozen=True)
class TokenRecord:
    """A pipeline's credential. The secret part is shown once and not kept. `owner` is a person's identity, or empty."""

    id: int
    prefix: str
    name: str
    scopes: tuple[str, ...]
    owner: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True)
class CertificateRecord:
    """A device certificate that was issued."""

    serial: str
    device_id: str
    not_before_at: datetime
    not_after_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class PublishedRole:
    """A role version that the publisher has just put into the image repository."""

    role: str
    version: int


@dataclass(frozen=True)
class OnlineKeys:
    """The public halves of the keys that the server itself holds."""

    snapshot: Key
    timestamp: Key
    director: Key


@dataclass(frozen=True)
class SignedTarget:
    """What a role says about one path."""

    length: int
    sha256: str


@dataclass(frozen=True)
class VerifiedRole:
    """A model's role after verification against its delegation; only `verify_role` makes one.

    `previous` holds the targets of the version before, so that a caller sees what this one adds and removes.
    """

    model: str
    version: int
    payload: bytes
    targets: Mapping[str, SignedTarget]
    previous: Mapping[str, SignedTarget]
    expires_at: datetime

    @property
    def added(self) -> frozenset[str]:
        """Paths that the version before did not list."""
        return frozenset(self.targets) - frozenset(self.previous)

    @property
    def removed(self) -> frozenset[str]:
        """Paths that only the version before lists."""
        return frozenset(self.previous) - frozenset(self.targets)

    @property
    def changed(self) -> frozenset[str]:
        """Paths whose content is not what the version before said."""
        return frozenset(
            path for path in set(self.targets) & set(self.previous) if self.targets[path] != self.previous[path]
        )


@dataclass(frozen=True)
class StoredAnswer:
    """The answer that a request was given under its Idempotency-Key."""

    status: int
    body: object
