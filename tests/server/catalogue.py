"""Rows of the registry for tests of the apps above it, made without signatures: what is signed is tested elsewhere."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from device_client.wire.bundles import BundleFile, FileRole, Manifest
from device_client.wire.names import VariantName
from fleet.apps.jobs import services as jobs
from fleet.apps.registry.models import Blob, Delta, Model, Namespace, Variant, Version
from fleet.apps.registry.selectors import build_job_key

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MODEL = "vision.digits"


def later(seconds: float) -> datetime:
    """So many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


@dataclass(frozen=True)
class Release:
    """A version in the registry: its row's id and, by variant slug, digest and weights."""

    id: int
    label: str
    digests: dict[str, str]
    weights: dict[str, str]

    @property
    def digest(self) -> str:
        """Of the only or first variant."""
        return next(iter(self.digests.values()))

    @property
    def weights_by_digest(self) -> dict[str, str]:
        """The weights file of each digest."""
        return {digest: self.weights[slug] for slug, digest in self.digests.items()}


def make_model(name: str = MODEL) -> None:
    """A model and its namespace."""
    namespace = name.split(".", maxsplit=1)[0]
    Namespace.objects.get_or_create(pk=namespace, defaults={"created_at": NOW})
    key = hashlib.sha256(name.encode()).hexdigest()[:32]
    Model.objects.get_or_create(pk=name, defaults={"namespace_id": namespace, "plan_key": key, "created_at": NOW})


def make_version(
    label: str, *, model: str = MODEL, variants: Sequence[str] = ("onnx-fp32-any",), state: str = "published"
) -> Release:
    """A version whose weights are named after it."""
    make_model(model)
    row = Version.objects.create(
        model_id=model,
        label=label,
        number=int(label),
        state=state,
        role_version=int(label),
        created_by="test",
        created_at=NOW,
        published_at=NOW,
    )
    digests: dict[str, str] = {}
    weights: dict[str, str] = {}
    for slug in variants:
        weights[slug] = make_blob(f"{model} {label} {slug}", 1_000)
        manifest = Manifest(
            model=model,
            version=label,
            variant=VariantName.parse(slug),
            format="onnx",
            files=(BundleFile("model.onnx", FileRole.WEIGHTS, weights[slug], 1_000),),
        )
        digests[slug] = manifest.digest
        Variant.objects.create(
            version=row,
            slug=slug,
            digest=manifest.digest,
            manifest=manifest.encode(),
            format="onnx",
            content_bytes=1_000,
            weights_id=weights[slug],
        )
    return Release(row.pk, label, digests, weights)


def revoke(release: Release) -> None:
    """What the registry does when a pipeline takes a version out of its role."""
    Version.objects.filter(pk=release.id).update(state=Version.State.REVOKED)


def make_blob(content: str, length: int) -> str:
    """A blob's row; returns its name."""
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    Blob.objects.get_or_create(pk=sha256, defaults={"length": length, "created_at": NOW})
    return sha256


def make_delta(old: str, new: str, *, ready: bool, codec: str = "bsdiff4", length: int = 100) -> str | None:
    """A delta's row, ready or still to be built by an open job; returns the patch's name."""
    patch = make_blob(f"patch {old} {new} {codec}", length) if ready else None
    Delta.objects.update_or_create(
        old_id=old,
        new_id=new,
        codec=codec,
        defaults={"state": "ready" if ready else "queued", "patch_id": patch, "created_at": NOW},
    )
    if not ready:
        jobs.enqueue(kind="delta", key=build_job_key(old, new, codec), payload={}, now=NOW)
    return patch
