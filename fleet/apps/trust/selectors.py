"""Reads of the trust app: current metadata, the state of trust, claims, tokens, certificates."""

from collections.abc import Iterable
from datetime import datetime

from django.db.models import Max, Q
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from device_client.wire import canonical
from fleet.apps.trust.models import ApiToken, Certificate, Claim, SignedMetadata
from fleet.apps.trust.records import (
    CertificateRecord,
    ClaimRecord,
    Repository,
    RoleRecord,
    RoleState,
    TokenRecord,
    TrustState,
)
from fleet.domain import role_checks
from fleet.domain.errors import ConflictError
from fleet.ports.certificates import Revocation

ANCHORS_VERSION = 1


def role_record(row: SignedMetadata) -> RoleRecord:
    """The row as a value; for the services of this app."""
    return RoleRecord(
        repository=Repository(row.repository),
        role=row.role,
        version=row.version,
        payload=bytes(row.payload),
        published=row.state == SignedMetadata.State.PUBLISHED,
        expires_at=row.expires_at,
        created_at=row.created_at,
    )


def current_metadata(repository: Repository, role: str) -> RoleRecord | None:
    """The newest version of a role, staged or published."""
    row = SignedMetadata.objects.filter(repository=repository.value, role=role).order_by("-version").first()
    return None if row is None else role_record(row)


def published_version(role: str) -> int:
    """The newest version of an image role that is in the published repository; 0 for none."""
    newest = SignedMetadata.objects.filter(
        repository=Repository.IMAGE.value, role=role, state=SignedMetadata.State.PUBLISHED
    ).aggregate(newest=Max("version"))["newest"]
    return int(newest or 0)


def current_targets(role: str) -> Targets | None:
    """The newest top-level targets or model role of the image repository, as verified when it was stored."""
    record = current_metadata(Repository.IMAGE, role)
    return None if record is None else role_checks.parse_targets(record.payload).signed


def require_root(repository: Repository) -> Root:
    """The newest root; raises ConflictError until roots are imported."""
    record = current_metadata(repository, Root.type)
    if record is None:
        raise ConflictError("trust_not_set_up", "expected imported roots, got none: run `modelfleet keys init`")
    return role_checks.parse_root(record.payload).signed


def roots(repository: Repository) -> list[RoleRecord]:
    """Every version of a root, the oldest first."""
    rows = SignedMetadata.objects.filter(repository=repository.value, role=Root.type).order_by("version")
    return [role_record(row) for row in rows]


def delegation_threshold(model: str) -> int:
    """How many signatures the role of a model needs; 0 while nobody may sign it."""
    targets = current_targets(Targets.type)
    return 0 if targets is None else role_checks.delegation_threshold(targets, model)


def first_roots() -> tuple[str, str] | None:
    """Root version 1 of the image and the director repository, as text; None until roots are imported."""
    texts = {
        row.repository: bytes(row.payload).decode() for row in SignedMetadata.objects.filter(role=Root.type, version=1)
    }
    if set(texts) != {Repository.IMAGE.value, Repository.DIRECTOR.value}:
        return None
    return texts[Repository.IMAGE.value], texts[Repository.DIRECTOR.value]


def anchors(device_ca_pem: str) -> bytes | None:
    """What a device pins at enrolment: canonical JSON {v, device_ca_pem, image_root, director_root}; None before set-up.

    The bytes stay the same through root rotations, so that a printed pin stays valid: devices walk from version 1.
    """
    texts = first_roots()
    if texts is None:
        return None
    image_root, director_root = texts
    return canonical.encode(
        {
            "v": ANCHORS_VERSION,
            "device_ca_pem": device_ca_pem,
            "image_root": image_root,
            "director_root": director_root,
        }
    )


def trust_state() -> TrustState:
    """Whether roots are imported, and where every role stands."""
    newest: dict[tuple[str, str], RoleState] = {}
    rows = (
        SignedMetadata.objects.values("repository", "role")
        .annotate(
            newest=Max("version"),
            published=Max("version", filter=Q(state=SignedMetadata.State.PUBLISHED)),
            expires=Max("expires_at"),
        )
        .order_by("repository", "role")
    )
    for row in rows:
        newest[row["repository"], row["role"]] = RoleState(
            repository=Repository(row["repository"]),
            role=row["role"],
            version=row["newest"],
            published_version=row["published"],
            expires_at=row["expires"],
        )
    imported = all((repository.value, Root.type) in newest for repository in Repository)
    return TrustState(imported, tuple(newest.values()))


def model_role_states(names: Iterable[str]) -> dict[str, RoleState]:
    """Where the roles of these models stand, by model."""
    wanted = set(names) - {Root.type, Targets.type, Snapshot.type, Timestamp.type}
    return {state.role: state for state in trust_state().roles if state.role in wanted}


# ------------------------------------------------------------------------------------------- credentials


def claim_record(row: Claim) -> ClaimRecord:
    """The row as a value; for the services of this app."""
    return ClaimRecord(
        id=row.pk,
        device_id=row.device_id,
        hardware_class=row.hardware_class,
        attributes=dict(row.attributes),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
    )


def claims(*, after_id: int | None = None, limit: int = 100) -> list[ClaimRecord]:
    """Claims, the newest first; `after_id` goes on below a claim."""
    rows = Claim.objects.order_by("-pk")
    if after_id is not None:
        rows = rows.filter(pk__lt=after_id)
    return [claim_record(row) for row in rows[:limit]]


def token_record(row: ApiToken) -> TokenRecord:
    """The row as a value; for the services of this app."""
    return TokenRecord(
        id=row.pk,
        prefix=row.prefix,
        name=row.name,
        scopes=tuple(row.scopes),
        owner=row.owner,
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )


def tokens(*, after_id: int | None = None, limit: int = 100) -> list[TokenRecord]:
    """API tokens, the newest first; `after_id` goes on below a token."""
    rows = ApiToken.objects.order_by("-pk")
    if after_id is not None:
        rows = rows.filter(pk__lt=after_id)
    return [token_record(row) for row in rows[:limit]]


def certificates(device_id: str) -> list[CertificateRecord]:
    """The certificates of a device, the newest first."""
    rows = Certificate.objects.filter(device_id=device_id).order_by("-not_before", "-pk")
    return [CertificateRecord(row.serial, row.device_id, row.not_before, row.not_after, row.revoked_at) for row in rows]


def revocations() -> list[Revocation]:
    """Every revoked certificate: what the broker's revocation list must hold."""
    rows = Certificate.objects.filter(revoked_at__isnull=False).values_list("serial", "revoked_at")
    return [Revocation(serial, revoked_at) for serial, revoked_at in rows if revoked_at is not None]


def shut_out_devices(now: datetime) -> set[str]:
    """Devices that have certificates, none of which is valid any more: what the broker must turn away by name."""
    valid = Certificate.objects.filter(revoked_at__isnull=True, not_after__gt=now)
    return set(
        Certificate.objects.filter(revoked_at__isnull=False)
        .exclude(device_id__in=valid.values("device_id"))
        .values_list("device_id", flat=True)
    )
