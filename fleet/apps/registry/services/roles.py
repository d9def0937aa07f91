"""What a model's signed role means for its versions: published, revoked, refreshed."""

from datetime import datetime, timedelta

from django.db import transaction

from device_client.wire.names import ManifestPath
from fleet.apps.audit import services as audit
from fleet.apps.registry import selectors
from fleet.apps.registry.models import Model, Version
from fleet.apps.registry.records import ModelRecord, VersionRecord, VersionState
from fleet.apps.trust import selectors as trust_selectors
from fleet.apps.trust import services as trust
from fleet.apps.trust.records import VerifiedRole
from fleet.domain.errors import ConflictError, InvalidInputError
from fleet.domain.repository import MODEL_ROLE_LIFETIMES, Profile

PROD_THRESHOLD = 2


def role_lifetime(model: ModelRecord) -> timedelta:
    """The longest that a role of this model may live."""
    return MODEL_ROLE_LIFETIMES[Profile(model.profile)]


def require_threshold(model: ModelRecord) -> None:
    """Raise ConflictError for a production model whose role one key alone could sign."""
    threshold = trust_selectors.delegation_threshold(model.name)
    if model.profile == Profile.PROD and threshold < PROD_THRESHOLD:
        raise ConflictError(
            "role_threshold",
            f"namespace {model.namespace} is {model.profile}: expected a delegation with a threshold of "
            f"{PROD_THRESHOLD}, got {threshold}",
        )


def stage_model_role(*, model: str, payload: bytes, actor: str, now: datetime) -> VerifiedRole:
    """Take in a role that adds no version: the first empty one, a refresh, or one that revokes versions.

    Versions come with their manifests through `finalise_version`. Removing the last path of a version revokes it.
    """
    record = selectors.model(model)
    role = trust.verify_role(model=model, payload=payload, lifetime=role_lifetime(record), now=now)
    if role.added or role.changed:
        raise InvalidInputError(
            "role_adds_targets",
            f"expected no new or changed targets (finalise a version for that), got {sorted(role.added | role.changed)[:3]}",
        )
    with transaction.atomic():
        trust.stage_role(role=role, now=now)
        revoked = _revoke_removed(role)
        audit.record(
            actor=actor,
            action="model.role.stage",
            subject=model,
            detail={"version": role.version, "revoked": revoked},
            now=now,
        )
    return role


def revoke_version(*, model: str, label: str, payload: bytes, actor: str, now: datetime) -> VersionRecord:
    """Take in a role without this version and no other change: nobody can install it on a device that saw the removal."""
    record = selectors.model(model)
    version = selectors.get_version(model, label)
    if version.state is VersionState.REVOKED:
        raise ConflictError("version_revoked", f"expected a version that is not revoked, got {model}@{label}")
    role = trust.verify_role(model=model, payload=payload, lifetime=role_lifetime(record), now=now)
    expected = {path for path in role.previous if ManifestPath.parse(path).version == label}
    if role.removed != expected or role.added or role.changed:
        raise InvalidInputError(
            "role_not_revocation",
            f"expected a role that removes exactly {sorted(expected)}, got one that removes {sorted(role.removed)}",
        )
    with transaction.atomic():
        trust.stage_role(role=role, now=now)
        _revoke_removed(role)
        audit.record(
            actor=actor,
            action="version.revoke",
            subject=f"{model}@{label}",
            detail={"role_version": role.version},
            now=now,
        )
    return selectors.get_version(model, label)


def _revoke_removed(role: VerifiedRole) -> list[str]:
    """Versions of which the role lists no path any more. A version half removed is refused: it would be another one."""
    lost = {ManifestPath.parse(path).version for path in role.removed}
    kept = {ManifestPath.parse(path).version for path in role.targets}
    if lost & kept:
        raise InvalidInputError(
            "version_half_removed", f"expected whole versions to be removed, got some variants of {sorted(lost & kept)}"
        )
    Version.objects.filter(model_id=role.model, label__in=lost).update(state=Version.State.REVOKED)
    return sorted(lost)


def mark_published(*, model: str, role_version: int, now: datetime) -> int:
    """The publisher put this role version into the image repository: its versions can be rolled out from now on."""
    return Version.objects.filter(
        model_id=model, role_version__lte=role_version, state=Version.State.PUBLISHING
    ).update(state=Version.State.PUBLISHED, published_at=now)


def settle_published(*, now: datetime) -> int:
    """Mark every version whose role is public; what a publisher that died between two steps left undone is done here."""
    waiting = set(Version.objects.filter(state=Version.State.PUBLISHING).values_list("model_id", flat=True))
    return sum(
        mark_published(model=model, role_version=trust_selectors.published_version(model), now=now)
        for model in sorted(waiting)
    )


def next_number(model: str) -> int:
    """The number of the next version; call inside the transaction that makes it."""
    row = Model.objects.select_for_update().get(pk=model)
    row.last_number += 1
    row.save(update_fields=["last_number"])
    return row.last_number
