"""Takes in signed metadata: roots, top-level targets, model roles. Verifies first, stores as staged, publishes nothing."""

from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from tuf.api.metadata import Metadata, Root, Targets

from fleet.apps.audit import services as audit
from fleet.apps.trust import selectors
from fleet.apps.trust.models import SignedMetadata
from fleet.apps.trust.records import OnlineKeys, Repository, RoleRecord, SignedTarget, VerifiedRole
from fleet.domain import role_checks
from fleet.domain.errors import ConflictError
from fleet.domain.repository import DIRECTOR_ROLES


def import_roots(
    *, image_root: bytes, image_targets: bytes, director_root: bytes, online: OnlineKeys, actor: str, now: datetime
) -> None:
    """Set the installation up with its first roots. Raises ConflictError when it has some: roots are rotated after that."""
    root = role_checks.first_image_root(
        image_root, snapshot_key=online.snapshot, timestamp_key=online.timestamp, now=now
    )
    targets = role_checks.image_targets(image_targets, root=root.signed, previous=None, now=now)
    director = role_checks.first_director_root(director_root, director_key=online.director, now=now)
    with transaction.atomic():
        if SignedMetadata.objects.filter(role=Root.type).exists():
            raise ConflictError("roots_exist", "expected an installation without roots, got one that has them")
        _stage(Repository.IMAGE, Root.type, root, image_root, now)
        _stage(Repository.IMAGE, Targets.type, targets, image_targets, now)
        _stage(Repository.DIRECTOR, Root.type, director, director_root, now)
        audit.record(actor=actor, action="trust.roots.import", subject="roots", detail={}, now=now)


def rotate_root(*, repository: Repository, payload: bytes, online: OnlineKeys, actor: str, now: datetime) -> RoleRecord:
    """Take in the successor of a root, signed by the keys of both. The online roles must have the server's own keys."""
    current = selectors.require_root(repository)
    own = (
        {"snapshot": online.snapshot, "timestamp": online.timestamp}
        if repository is Repository.IMAGE
        else dict.fromkeys(DIRECTOR_ROLES, online.director)
    )
    metadata = role_checks.next_root(payload, current, online=own, now=now)
    with transaction.atomic():
        record = _stage(repository, Root.type, metadata, payload, now)
        audit.record(
            actor=actor,
            action="trust.root.rotate",
            subject=repository.value,
            detail={"version": metadata.signed.version},
            now=now,
        )
    return record


def stage_image_targets(*, payload: bytes, actor: str, now: datetime) -> RoleRecord:
    """Take in the next top-level targets: who signs which model."""
    root = selectors.require_root(Repository.IMAGE)
    previous = selectors.current_targets(Targets.type)
    metadata = role_checks.image_targets(payload, root=root, previous=previous, now=now)
    with transaction.atomic():
        record = _stage(Repository.IMAGE, Targets.type, metadata, payload, now)
        audit.record(
            actor=actor,
            action="trust.targets.stage",
            subject=Targets.type,
            detail={"version": record.version, "models": sorted(role_checks.delegated_models(metadata.signed))},
            now=now,
        )
    return record


def verify_role(*, model: str, payload: bytes, lifetime: timedelta, now: datetime) -> VerifiedRole:
    """Verify the next version of a model's role; stores nothing. `lifetime` is the longest that its expiry may lie ahead."""
    selectors.require_root(Repository.IMAGE)
    delegator = selectors.current_targets(Targets.type)
    if delegator is None:
        raise ConflictError("trust_not_set_up", "expected top-level targets, got none: run `modelfleet keys init`")
    previous = selectors.current_targets(model)
    metadata = role_checks.model_role(
        payload, model=model, delegator=delegator, previous=previous, lifetime=lifetime, now=now
    )
    return VerifiedRole(
        model=model,
        version=metadata.signed.version,
        payload=payload,
        targets=_targets_of(metadata.signed),
        previous={} if previous is None else _targets_of(previous),
        expires_at=metadata.signed.expires,
    )


def stage_role(*, role: VerifiedRole, now: datetime) -> None:
    """Store a verified role for the publisher. Raises ConflictError when another of this version came first."""
    _store(
        repository=Repository.IMAGE,
        role=role.model,
        version=role.version,
        payload=role.payload,
        expires_at=role.expires_at,
        now=now,
    )


def _targets_of(targets: Targets) -> dict[str, SignedTarget]:
    return {path: SignedTarget(file.length, file.hashes["sha256"]) for path, file in targets.targets.items()}


def _stage(
    repository: Repository, role: str, metadata: Metadata[Root] | Metadata[Targets], payload: bytes, now: datetime
) -> RoleRecord:
    return _store(
        repository=repository,
        role=role,
        version=metadata.signed.version,
        payload=payload,
        expires_at=metadata.signed.expires,
        now=now,
    )


def _store(
    *, repository: Repository, role: str, version: int, payload: bytes, expires_at: datetime, now: datetime
) -> RoleRecord:
    try:
        with transaction.atomic():
            row = SignedMetadata.objects.create(
                repository=repository.value,
                role=role,
                version=version,
                # Nothing but its root is ever published of the director's repository, and devices get that in bundles.
                state=SignedMetadata.State.STAGED if repository is Repository.IMAGE else SignedMetadata.State.PUBLISHED,
                payload=payload,
                expires_at=expires_at,
                created_at=now,
            )
    except IntegrityError as error:
        raise ConflictError("role_version", f"{role}: version {version} exists already") from error
    return selectors.role_record(row)
