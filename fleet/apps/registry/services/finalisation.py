"""Makes a version out of a signed role, manifests and uploaded blobs. Everything is checked before anything is stored.

The order matters: signature, paths and manifests (cheap, and they prove who asks), presence of blobs, then a look into
the files, then one transaction. Refused means that nothing is left behind: no version, no staged role, and the blobs
that only this upload brought are deleted. A conflict (somebody else was faster) keeps the blobs: the pipeline signs again.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import IntegrityError, transaction

from device_client.wire.bundles import BundleFile, FileRole, Manifest
from device_client.wire.errors import WireError
from device_client.wire.names import ManifestPath
from fleet.apps.audit import services as audit
from fleet.apps.registry import selectors
from fleet.apps.registry.models import Blob, Variant, VariantFile, Version
from fleet.apps.registry.records import VersionRecord
from fleet.apps.registry.services.roles import next_number, require_threshold, role_lifetime
from fleet.apps.registry.services.uploads import discard_blobs
from fleet.apps.trust import services as trust
from fleet.apps.trust.records import VerifiedRole
from fleet.domain.errors import ConflictError, InvalidInputError, UnavailableError
from fleet.domain.inspection import ByteSource, Inspection, inspect_companion, inspect_weights, require_agreement
from fleet.ports.blobs import BlobMissingError, BlobStore

MAX_VARIANTS: Final = 32
MAX_NOTES_CHARS: Final = 20_000
MAX_METADATA_KEYS: Final = 64
MAX_GIT_SHA_CHARS: Final = 64


@dataclass(frozen=True)
class _Checked:
    """A variant that has passed every check."""

    manifest: Manifest
    payload: bytes
    inspection: Inspection


@dataclass(frozen=True)
class _Description:
    """What people and pipelines say about a version; nothing is decided by it."""

    notes: str
    git_sha: str
    metadata: Mapping[str, object]
    actor: str


def finalise_version(
    *,
    model: str,
    manifests: Sequence[bytes],
    role_payload: bytes,
    notes: str,
    git_sha: str,
    metadata: Mapping[str, object],
    store: BlobStore,
    actor: str,
    now: datetime,
) -> VersionRecord:
    """Check and store a version; it is `publishing` until the publisher has put its role into the image repository."""
    record = selectors.model(model)
    parsed = [_parse(payload) for payload in manifests]
    named = frozenset(file.sha256 for manifest in parsed for file in manifest.files)
    try:
        _check_texts(notes, git_sha, metadata)
        require_threshold(record)
        role = trust.verify_role(model=model, payload=role_payload, lifetime=role_lifetime(record), now=now)
        label = _check_signed(role, parsed, manifests)
        if Version.objects.filter(model_id=model, label=label).exists():
            raise ConflictError("version_exists", f"expected a new version of {model}, got {label}, which exists")
        checked = [_check_files(manifest, payload, store) for manifest, payload in zip(parsed, manifests, strict=True)]
        description = _Description(notes, git_sha, metadata, actor)
        # Devices download the manifest like any file. It must be there before the version is: nothing would bring it later.
        for item in checked:
            store.put(item.manifest.digest, io.BytesIO(item.payload), len(item.payload))
        return _store(role, label, checked, description, now)
    except InvalidInputError:
        discard_blobs(sha256s=named, actor=actor, store=store)
        _discard_manifests(parsed, store)
        raise


def _discard_manifests(manifests: Sequence[Manifest], store: BlobStore) -> None:
    """Remove the manifests of a refused version, unless an accepted one has the very same."""
    digests = {manifest.digest for manifest in manifests}
    for digest in digests - set(Variant.objects.filter(digest__in=digests).values_list("digest", flat=True)):
        store.delete(digest)


def _parse(payload: bytes) -> Manifest:
    try:
        return Manifest.parse(payload)
    except WireError as error:
        raise InvalidInputError(f"manifest_{error.code}", f"manifest: {error}") from error


def _check_texts(notes: str, git_sha: str, metadata: Mapping[str, object]) -> None:
    if len(notes) > MAX_NOTES_CHARS or len(git_sha) > MAX_GIT_SHA_CHARS or len(metadata) > MAX_METADATA_KEYS:
        raise InvalidInputError(
            "version_description",
            f"expected notes of at most {MAX_NOTES_CHARS} characters, a git sha of at most {MAX_GIT_SHA_CHARS} and at "
            f"most {MAX_METADATA_KEYS} metadata keys, got {len(notes)}, {len(git_sha)} and {len(metadata)}",
        )


def _check_signed(role: VerifiedRole, manifests: Sequence[Manifest], payloads: Sequence[bytes]) -> str:
    """What the role adds must be these very manifests, all of one version, and nothing else; returns its label."""
    if not 0 < len(manifests) <= MAX_VARIANTS:
        raise InvalidInputError("manifest_count", f"expected 1 to {MAX_VARIANTS} manifests, got {len(manifests)}")
    if role.removed or role.changed:
        raise InvalidInputError(
            "role_changes_targets",
            f"expected a role that only adds, got one that changes {sorted(role.removed | role.changed)[:3]}",
        )
    paths = {
        str(ManifestPath(manifest.model, manifest.version, manifest.variant)): payload
        for manifest, payload in zip(manifests, payloads, strict=True)
    }
    if len(paths) != len(payloads) or frozenset(paths) != role.added:
        raise InvalidInputError(
            "manifests_not_signed", f"expected manifests of {sorted(role.added)}, got {sorted(paths)}"
        )
    for path, payload in paths.items():
        signed, digest = role.targets[path], hashlib.sha256(payload).hexdigest()
        if (signed.length, signed.sha256) != (len(payload), digest):
            raise InvalidInputError(
                "manifest_mismatch",
                f"{path}: expected {signed.length} bytes of sha256 {signed.sha256}, got {len(payload)} of {digest}",
            )
    labels = {manifest.version for manifest in manifests}
    if len(labels) != 1:
        raise InvalidInputError("version_label", f"expected variants of one version, got {sorted(labels)}")
    return labels.pop()


def _check_files(manifest: Manifest, payload: bytes, store: BlobStore) -> _Checked:
    inspection: Inspection | None = None
    for file in manifest.files:
        _require_stored(file, store)
        source = _source(file, store)
        if file.role is FileRole.WEIGHTS:
            inspection = inspect_weights(source, file.name)
        else:
            inspect_companion(source, file.role, file.name)
    if inspection is None:
        raise InvalidInputError("manifest_malformed", "expected a weights file, got none")
    require_agreement(inspection, manifest)
    _require_labels(manifest)
    return _Checked(manifest, payload, inspection)


def _require_stored(file: BundleFile, store: BlobStore) -> None:
    known = selectors.blob_length(file.sha256)
    if known is None or store.length(file.sha256) != known:
        raise InvalidInputError("blob_missing", f"{file.name}: expected an uploaded blob {file.sha256}, got none")
    if known != file.length:
        raise InvalidInputError("blob_length", f"{file.name}: expected {file.length} bytes, got {known}")


def _require_labels(manifest: Manifest) -> None:
    labels = manifest.file_of_role(FileRole.LABELS)
    said = manifest.contract.labels_sha256
    if said is not None and (labels is None or labels.sha256 != said):
        raise InvalidInputError(
            "contract_contradicted",
            f"labels: expected the file of sha256 {said}, got {None if labels is None else labels.sha256}",
        )


def _source(file: BundleFile, store: BlobStore) -> ByteSource:
    def fetch(offset: int, size: int) -> bytes:
        try:
            with store.open(file.sha256, offset) as reader:
                return reader.read(size)
        except BlobMissingError as error:
            raise UnavailableError("blob_vanished", str(error)) from error

    return ByteSource(file.length, fetch)


def _store(
    role: VerifiedRole, label: str, checked: Sequence[_Checked], description: _Description, now: datetime
) -> VersionRecord:
    try:
        with transaction.atomic():
            trust.stage_role(role=role, now=now)
            version = Version.objects.create(
                model_id=role.model,
                label=label,
                number=next_number(role.model),
                state=Version.State.PUBLISHING,
                role_version=role.version,
                notes=description.notes,
                git_sha=description.git_sha,
                metadata=dict(description.metadata),
                created_by=description.actor,
                created_at=now,
            )
            for item in checked:
                _store_variant(version, item)
            audit.record(
                actor=description.actor,
                action="version.finalise",
                subject=f"{role.model}@{label}",
                detail={"digests": {item.manifest.variant.slug: item.manifest.digest for item in checked}},
                now=now,
            )
    except IntegrityError as error:
        raise ConflictError(
            "version_exists", f"expected a new version of {role.model}, got {label}, which exists"
        ) from error
    return selectors.get_version(role.model, label)


def _store_variant(version: Version, item: _Checked) -> None:
    manifest = item.manifest
    variant = Variant.objects.create(
        version=version,
        slug=manifest.variant.slug,
        digest=manifest.digest,
        manifest=item.payload,
        format=manifest.format,
        content_bytes=manifest.content_bytes,
        weights_id=manifest.weights.sha256,
        inspection=item.inspection.encode(),
    )
    # Locked, so that a sweep that is deciding about these blobs at this moment waits or has already taken them.
    held = set(
        Blob.objects.select_for_update()
        .filter(pk__in={file.sha256 for file in manifest.files})
        .values_list("pk", flat=True)
    )
    missing = {file.sha256 for file in manifest.files} - held
    if missing:
        raise InvalidInputError("blob_missing", f"expected uploaded blobs, got none for {sorted(missing)}")
    VariantFile.objects.bulk_create(
        VariantFile(variant=variant, name=file.name, role=file.role.value, blob_id=file.sha256)
        for file in manifest.files
    )
