"""The TUF roles as data: builders of root, targets, model roles, snapshot, timestamp and director metadata.

Every builder takes `now`, returns unsigned metadata and changes nothing it is given. Nothing here holds a key, reads a
file or verifies: signing is `signed`, verification is python-tuf's (`verify_delegate` on the server, `ngclient` on
devices and in the pipeline command). Lifetimes are what trust.md promises; a role may be shorter lived, never longer.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import (
    SPECIFICATION_VERSION,
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from device_client.wire.names import ManifestPath, parse_model

ROOT_LIFETIME: Final = timedelta(days=365)
TARGETS_LIFETIME: Final = timedelta(days=365)
SNAPSHOT_LIFETIME: Final = timedelta(days=7)
TIMESTAMP_LIFETIME: Final = timedelta(days=1)
DIRECTOR_LIFETIME: Final = timedelta(days=7)
IMAGE_ONLINE_ROLES: Final = (Snapshot.type, Timestamp.type)
DIRECTOR_ROLES: Final = (Targets.type, Snapshot.type, Timestamp.type)

SPEC_VERSION: Final = ".".join(SPECIFICATION_VERSION)
Content = TypeVar("Content", Root, Targets, Snapshot, Timestamp)


class Profile(StrEnum):
    """How strictly the roles of a namespace are held."""

    DEV = "dev"
    PROD = "prod"


# A dev namespace belongs to a small team without a schedule that re-signs; a production role must not stay valid for
# longer than a device may be shown an old version of it.
MODEL_ROLE_LIFETIMES: Final[Mapping[Profile, timedelta]] = {
    Profile.DEV: timedelta(days=365),
    Profile.PROD: timedelta(days=90),
}


@dataclass(frozen=True)
class NamedTarget:
    """One entry of a targets role: its path and the content that it must have; sha256 is the only hash."""

    path: str
    length: int
    sha256: str
    custom: Mapping[str, Any] = field(default_factory=dict)

    def to_target_file(self) -> TargetFile:
        """As TUF has it."""
        unrecognized = {"custom": dict(self.custom)} if self.custom else {}
        return TargetFile(self.length, {"sha256": self.sha256}, self.path, unrecognized)


def expiry(now: datetime, lifetime: timedelta) -> datetime:
    """When metadata signed now expires: whole seconds of UTC, as TUF writes them."""
    return (now.astimezone(UTC) + lifetime).replace(microsecond=0)


def delegated_paths(model: str) -> list[str]:
    """The target paths of a model's role. A `*` does not cross a `/`."""
    return [f"models/{parse_model(model)}/*/*"]


def image_root(
    *,
    root_keys: Sequence[Key],
    targets_keys: Sequence[Key],
    snapshot_key: Key,
    timestamp_key: Key,
    threshold: int,
    now: datetime,
    version: int = 1,
) -> Metadata[Root]:
    """The image repository's root: offline keys for root and targets, one online key each for the other two."""
    return _root(
        {
            Root.type: (root_keys, threshold),
            Targets.type: (targets_keys, threshold),
            Snapshot.type: ((snapshot_key,), 1),
            Timestamp.type: ((timestamp_key,), 1),
        },
        version=version,
        now=now,
    )


def director_root(
    *, root_keys: Sequence[Key], online_key: Key, threshold: int, now: datetime, version: int = 1
) -> Metadata[Root]:
    """The director's root: offline keys for root, one online key for the three roles of a bundle."""
    roles: dict[str, tuple[Sequence[Key], int]] = dict.fromkeys(DIRECTOR_ROLES, ((online_key,), 1))
    return _root({Root.type: (root_keys, threshold), **roles}, version=version, now=now)


def image_targets(*, now: datetime, version: int = 1) -> Metadata[Targets]:
    """The image repository's top-level targets, without delegations yet. It never lists a target itself."""
    return _targets({}, version=version, expires=expiry(now, TARGETS_LIFETIME), delegations=Delegations({}, {}))


def with_model(
    current: Targets, *, model: str, keys: Sequence[Key], threshold: int, now: datetime
) -> Metadata[Targets]:
    """The next version of the top-level targets, in which `model` has a terminating role of its own.

    Keys that no role uses any more are dropped. Raises ValueError for a threshold that the keys cannot meet.
    """
    if not 1 <= threshold <= len(keys):
        raise ValueError(f"threshold {threshold}: expected 1 to {len(keys)}, the number of keys")
    old = current.delegations or Delegations({}, {})
    roles = dict(old.roles or {})
    roles[parse_model(model)] = DelegatedRole(
        model, [key.keyid for key in keys], threshold, terminating=True, paths=delegated_paths(model)
    )
    used = {keyid for role in roles.values() for keyid in role.keyids}
    known = {**old.keys, **{key.keyid: key for key in keys}}
    delegations = Delegations({keyid: key for keyid, key in known.items() if keyid in used}, roles)
    return _targets({}, version=current.version + 1, expires=expiry(now, TARGETS_LIFETIME), delegations=delegations)


def model_role(*, profile: Profile, now: datetime, version: int = 1) -> Metadata[Targets]:
    """A model's first role: no version yet."""
    return _targets({}, version=version, expires=expiry(now, MODEL_ROLE_LIFETIMES[profile]))


def with_targets(
    current: Targets, added: Iterable[NamedTarget], *, profile: Profile, now: datetime
) -> Metadata[Targets]:
    """The next version of a model's role, with `added` beside what it lists. Raises ValueError if a path is taken."""
    targets = dict(current.targets)
    for target in added:
        if target.path in targets:
            raise ValueError(f"{target.path} is already signed: versions are immutable")
        targets[target.path] = target.to_target_file()
    return _targets(targets, version=current.version + 1, expires=expiry(now, MODEL_ROLE_LIFETIMES[profile]))


def without_version(current: Targets, label: str, *, profile: Profile, now: datetime) -> Metadata[Targets]:
    """The next version of a model's role without any variant of version `label`: its revocation."""
    kept = {path: target for path, target in current.targets.items() if ManifestPath.parse(path).version != label}
    return _targets(kept, version=current.version + 1, expires=expiry(now, MODEL_ROLE_LIFETIMES[profile]))


def extended(current: Targets, *, lifetime: timedelta, now: datetime) -> Metadata[Targets]:
    """The next version of a targets role with the same content and a later expiry."""
    return _targets(
        dict(current.targets),
        version=current.version + 1,
        expires=expiry(now, lifetime),
        delegations=deepcopy(current.delegations),
    )


def snapshot(versions: Mapping[str, int], *, version: int, now: datetime) -> Metadata[Snapshot]:
    """What belongs together: the version of `targets` and of every model's role, by role name."""
    meta = {f"{role}.json": MetaFile(version=number) for role, number in versions.items()}
    return Metadata(Snapshot(version, SPEC_VERSION, expiry(now, SNAPSHOT_LIFETIME), meta))


def timestamp(snapshot_version: int, *, version: int, now: datetime) -> Metadata[Timestamp]:
    """Which snapshot is the newest."""
    return Metadata(
        Timestamp(version, SPEC_VERSION, expiry(now, TIMESTAMP_LIFETIME), MetaFile(version=snapshot_version))
    )


def director_targets(targets: Iterable[NamedTarget], *, version: int, now: datetime) -> Metadata[Targets]:
    """What one device is told: its binding, its assignments, patches for it. No delegations."""
    files = {target.path: target.to_target_file() for target in targets}
    return _targets(files, version=version, expires=expiry(now, DIRECTOR_LIFETIME))


def signed(metadata: Metadata[Content], signers: Iterable[Signer]) -> bytes:
    """The bytes to publish: `metadata` with one signature of each signer."""
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def _root(roles: Mapping[str, tuple[Sequence[Key], int]], *, version: int, now: datetime) -> Metadata[Root]:
    for name, (role_keys, threshold) in roles.items():
        if not 1 <= threshold <= len(role_keys):
            raise ValueError(f"{name}: threshold {threshold}, expected 1 to {len(role_keys)}, the number of keys")
    return Metadata(
        Root(
            version,
            SPEC_VERSION,
            expiry(now, ROOT_LIFETIME),
            keys={key.keyid: key for role_keys, _ in roles.values() for key in role_keys},
            roles={
                name: Role([key.keyid for key in role_keys], threshold)
                for name, (role_keys, threshold) in roles.items()
            },
            consistent_snapshot=True,
        )
    )


def _targets(
    targets: dict[str, TargetFile], *, version: int, expires: datetime, delegations: Delegations | None = None
) -> Metadata[Targets]:
    return Metadata(Targets(version, SPEC_VERSION, expires, targets, delegations))
