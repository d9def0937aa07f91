"""Verification of TUF metadata that somebody hands to the server: the bytes go in, verified metadata comes out.

Signatures, thresholds and formats are python-tuf's; here are the rules that it leaves to a repository: which version may
follow, how long a role may live, what the top-level targets may delegate, which keys the online roles must have.
Nothing here stores, signs or reads a clock. Every refusal is an `InvalidInputError`, or a `ConflictError` where the
caller signed on top of another version than the current one.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final, TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from device_client.wire.errors import WireError
from device_client.wire.names import ManifestPath, parse_model
from fleet.domain.errors import ConflictError, InvalidInputError, TooLargeError
from fleet.domain.repository import DIRECTOR_ROLES, IMAGE_ONLINE_ROLES, ROOT_LIFETIME, TARGETS_LIFETIME, delegated_paths

MAX_ROOT_BYTES: Final = 262_144
MAX_TARGETS_BYTES: Final = 2_097_152
MAX_ROLE_BYTES: Final = 1_048_576
# Signing machines and the server may disagree about the time by this much.
CLOCK_SLACK: Final = timedelta(hours=1)
MAX_TUF_VERSION: Final = 2**31 - 1

Content = TypeVar("Content", Root, Targets)


def parse_root(payload: bytes) -> Metadata[Root]:
    """Root metadata, not verified yet."""
    return _parse(payload, Root, MAX_ROOT_BYTES)


def parse_targets(payload: bytes, max_bytes: int = MAX_TARGETS_BYTES) -> Metadata[Targets]:
    """Targets metadata, not verified yet."""
    return _parse(payload, Targets, max_bytes)


def first_image_root(payload: bytes, *, snapshot_key: Key, timestamp_key: Key, now: datetime) -> Metadata[Root]:
    """An image root that signs itself and gives snapshot and timestamp to this server's keys and no others."""
    root = _first_root(payload, now)
    if not root.signed.consistent_snapshot:
        raise InvalidInputError("root_not_consistent", "image root: expected consistent_snapshot true, got false")
    for role, key in zip(IMAGE_ONLINE_ROLES, (snapshot_key, timestamp_key), strict=True):
        _require_only_key(root.signed, role, key)
    offline = _keys_of(root.signed, Root.type) | _keys_of(root.signed, Targets.type)
    _require_absent(offline, (snapshot_key, timestamp_key))
    return root


def first_director_root(payload: bytes, *, director_key: Key, now: datetime) -> Metadata[Root]:
    """A director root that signs itself and gives the roles of a bundle to this server's director key."""
    root = _first_root(payload, now)
    for role in DIRECTOR_ROLES:
        _require_only_key(root.signed, role, director_key)
    _require_absent(_keys_of(root.signed, Root.type), (director_key,))
    return root


def next_root(payload: bytes, previous: Root, *, online: Mapping[str, Key], now: datetime) -> Metadata[Root]:
    """The successor of a root: version + 1, signed by the keys of both, with this server's `online` keys by role."""
    root = parse_root(payload)
    _require_version(Root.type, root.signed.version, previous.version + 1)
    _require_signatures(previous, Root.type, root)
    _require_signatures(root.signed, Root.type, root)
    _require_expiry(Root.type, root.signed.expires, now, ROOT_LIFETIME)
    for role, key in online.items():
        _require_only_key(root.signed, role, key)
    return root


def image_targets(payload: bytes, *, root: Root, previous: Targets | None, now: datetime) -> Metadata[Targets]:
    """Top-level targets signed by root's keys that delegate each model to its own terminating role, and list nothing."""
    metadata = parse_targets(payload)
    _require_signatures(root, Targets.type, metadata)
    _require_version(Targets.type, metadata.signed.version, 1 if previous is None else previous.version + 1)
    _require_expiry(Targets.type, metadata.signed.expires, now, TARGETS_LIFETIME)
    if metadata.signed.targets:
        raise InvalidInputError(
            "targets_not_delegated",
            f"top-level targets: expected delegations only, got {len(metadata.signed.targets)} targets of its own",
        )
    _require_model_delegations(metadata.signed)
    if previous is not None:
        lost = delegated_models(previous) - delegated_models(metadata.signed)
        if lost:
            raise InvalidInputError(
                "delegation_removed",
                f"expected every model to stay delegated (retire one by emptying its role), got {sorted(lost)} removed",
            )
    return metadata


def model_role(
    payload: bytes,
    *,
    model: str,
    delegator: Targets,
    previous: Targets | None,
    lifetime: timedelta,
    now: datetime,
) -> Metadata[Targets]:
    """A model's role, signed by the keys that `delegator` names for it; its paths belong to this model alone."""
    metadata = parse_targets(payload, MAX_ROLE_BYTES)
    if model not in delegated_models(delegator):
        raise InvalidInputError(
            "role_not_delegated", f"expected a delegation of {model} by the image targets, got none"
        )
    _require_signatures(delegator, model, metadata)
    _require_version(model, metadata.signed.version, 1 if previous is None else previous.version + 1)
    _require_expiry(model, metadata.signed.expires, now, lifetime)
    if metadata.signed.delegations is not None and metadata.signed.delegations.roles:
        raise InvalidInputError("role_delegates", f"{model}: expected a role without delegations, got some")
    for path, target in metadata.signed.targets.items():
        _require_manifest_path(model, path)
        if set(target.hashes) != {"sha256"}:
            raise InvalidInputError(
                "target_hashes", f"{path}: expected exactly one hash sha256, got {set(target.hashes)}"
            )
    return metadata


def delegated_models(targets: Targets) -> frozenset[str]:
    """The models that the top-level targets delegate."""
    if targets.delegations is None or targets.delegations.roles is None:
        return frozenset()
    return frozenset(targets.delegations.roles)


def delegation_threshold(targets: Targets, model: str) -> int:
    """How many signatures a model's role needs; 0 for a model that is not delegated."""
    if targets.delegations is None or targets.delegations.roles is None or model not in targets.delegations.roles:
        return 0
    return targets.delegations.roles[model].threshold


def _parse(payload: bytes, kind: type[Content], max_bytes: int) -> Metadata[Content]:
    if len(payload) > max_bytes:
        raise TooLargeError("metadata_too_large", f"expected at most {max_bytes} bytes of metadata, got {len(payload)}")
    try:
        metadata: Metadata[Content] = Metadata.from_bytes(payload)
    except (DeserializationError, RecursionError) as error:
        cause = error.__cause__ or error
        raise InvalidInputError("metadata_malformed", f"expected TUF metadata, got {_brief(cause)}") from error
    if not isinstance(metadata.signed, kind):
        raise InvalidInputError(
            "metadata_malformed", f"expected metadata of type {kind.type}, got {metadata.signed.type}"
        )
    if metadata.signed.version > MAX_TUF_VERSION:
        raise InvalidInputError("metadata_version", f"expected a version up to {MAX_TUF_VERSION}, got a higher one")
    return metadata


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _first_root(payload: bytes, now: datetime) -> Metadata[Root]:
    root = parse_root(payload)
    _require_version(Root.type, root.signed.version, 1)
    _require_signatures(root.signed, Root.type, root)
    _require_expiry(Root.type, root.signed.expires, now, ROOT_LIFETIME)
    return root


def _require_signatures(delegator: Root | Targets, role: str, metadata: Metadata[Content]) -> None:
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (UnsignedMetadataError, UnverifiedSignatureError, ValueError) as error:
        raise InvalidInputError("signature_invalid", f"{role}: expected valid signatures, got: {error}") from error


def _require_version(role: str, got: int, expected: int) -> None:
    if got != expected:
        raise ConflictError("role_version", f"{role}: expected version {expected}, got {got}")


def _require_expiry(role: str, expires: datetime, now: datetime, lifetime: timedelta) -> None:
    latest = now + lifetime + CLOCK_SLACK
    if not now < expires <= latest:
        raise InvalidInputError(
            "role_expiry",
            f"{role}: expected an expiry between {now:%Y-%m-%dT%H:%MZ} and {latest:%Y-%m-%dT%H:%MZ}, "
            f"got {expires:%Y-%m-%dT%H:%MZ}",
        )


def _keys_of(root: Root, role: str) -> frozenset[str]:
    return frozenset(root.roles[role].keyids)


def _require_only_key(root: Root, role: str, key: Key) -> None:
    """Compares key material, not only ids: whoever writes a root chooses the ids in it."""
    named = [root.keys[keyid] for keyid in root.roles[role].keyids]
    if (
        len(named) != 1
        or named[0].keyid != key.keyid
        or named[0].keyval != key.keyval
        or root.roles[role].threshold != 1
    ):
        raise InvalidInputError(
            "online_key",
            f"{role}: expected this server's key {key.keyid[:16]} alone, got {[k.keyid[:16] for k in named]}",
        )


def _require_absent(offline: Collection[str], online: Collection[Key]) -> None:
    shared = [key.keyid[:16] for key in online if key.keyid in offline]
    if shared:
        raise InvalidInputError("online_key", f"expected offline keys for root and targets, got online key {shared}")


def _require_model_delegations(targets: Targets) -> None:
    delegations = targets.delegations
    if delegations is None:
        return
    if delegations.succinct_roles is not None or delegations.roles is None:
        raise InvalidInputError("delegation_malformed", "expected named roles, got succinct hash bins")
    for name, role in delegations.roles.items():
        try:
            expected = delegated_paths(parse_model(name))
        except WireError as error:
            raise InvalidInputError("delegation_malformed", f"delegation: {error}") from error
        if role.paths != expected or not role.terminating:
            raise InvalidInputError(
                "delegation_malformed",
                f"delegation {name}: expected a terminating role of {expected}, got terminating={role.terminating} "
                f"paths={role.paths}",
            )


def _require_manifest_path(model: str, path: str) -> None:
    try:
        parsed = ManifestPath.parse(path)
    except WireError as error:
        raise InvalidInputError("target_path", f"target: {error}") from error
    if parsed.model != model:
        raise InvalidInputError("target_path", f"expected targets of {model} only, got {path}")
