"""Reads of the registry: models, versions with their variants, aliases, deltas, blobs."""

from collections.abc import Iterable, Mapping
from typing import Final

from django.db.models import Count, Max, Min, QuerySet, Sum

from device_client.wire.bundles import Manifest
from device_client.wire.delta import Codec
from device_client.wire.names import VariantName
from fleet.apps.jobs import selectors as jobs
from fleet.apps.registry.models import Alias, Blob, Delta, Model, Namespace, Variant, Version
from fleet.apps.registry.records import (
    AliasRecord,
    DeltaCount,
    DeltaRecord,
    DeltaSavings,
    ModelRecord,
    NamedVariant,
    NamespaceRecord,
    VariantRecord,
    VersionRecord,
    VersionState,
)
from fleet.domain.delta_states import DeltaState
from fleet.domain.errors import NotFoundError
from fleet.domain.quiet import QuietHours


def namespaces() -> list[NamespaceRecord]:
    """Every namespace, by name."""
    return [namespace_record(row) for row in Namespace.objects.order_by("name")]


def namespace(name: str) -> NamespaceRecord:
    """One namespace; raises NotFoundError."""
    row = Namespace.objects.filter(pk=name).first()
    if row is None:
        raise NotFoundError("namespace_not_found", f"expected an existing namespace, got {name!r:.40}")
    return namespace_record(row)


def quiet_hours(model: str) -> QuietHours:
    """Those of a model's namespace."""
    return namespace(model.partition(".")[0]).quiet


def namespace_record(row: Namespace) -> NamespaceRecord:
    """The row as a value; for the services of this app."""
    return NamespaceRecord(row.name, row.profile, row.created_at, row.approvals, QuietHours.parse(row.quiet_hours))


def models(namespace: str | None = None) -> list[ModelRecord]:
    """Every model, by name."""
    rows = Model.objects.select_related("namespace").order_by("name")
    if namespace is not None:
        rows = rows.filter(namespace_id=namespace)
    return [model_record(row) for row in rows]


def model(name: str) -> ModelRecord:
    """One model; raises NotFoundError."""
    row = Model.objects.select_related("namespace").filter(pk=name).first()
    if row is None:
        raise NotFoundError("model_not_found", f"expected an existing model, got {name[:80]!r}")
    return model_record(row)


def model_record(row: Model) -> ModelRecord:
    """The row as a value; for the services of this app."""
    return ModelRecord(
        name=row.name,
        namespace=row.namespace_id,
        profile=row.namespace.profile,
        plan_key=row.plan_key,
        description=row.description,
        created_at=row.created_at,
    )


def get_version(model: str, label: str) -> VersionRecord:
    """One version by its label; raises NotFoundError."""
    row = _versions().filter(model_id=model, label=label).first()
    if row is None:
        raise NotFoundError("version_not_found", f"expected an existing version of {model[:80]}, got {label[:80]!r}")
    return version_record(row)


def version_by_id(version_id: int) -> VersionRecord:
    """One version by its primary key; raises NotFoundError."""
    row = _versions().filter(pk=version_id).first()
    if row is None:
        raise NotFoundError("version_not_found", f"expected an existing version, got id {version_id}")
    return version_record(row)


def versions_by_id(version_ids: Iterable[int]) -> dict[int, VersionRecord]:
    """Several versions at once, by primary key; missing ones are absent."""
    return {row.pk: version_record(row) for row in _versions().filter(pk__in=set(version_ids))}


def versions(model: str, *, below_number: int | None = None, limit: int | None = None) -> list[VersionRecord]:
    """The versions of a model, the newest first; `below_number` goes on under a version."""
    rows = _versions().filter(model_id=model).order_by("-number")
    if below_number is not None:
        rows = rows.filter(number__lt=below_number)
    return [version_record(row) for row in rows[:limit]]


def latest_labels() -> dict[str, str]:
    """The label of the newest published version of every model that has one, by model."""
    published = Version.objects.filter(state=Version.State.PUBLISHED).order_by("number")
    return dict(published.values_list("model_id", "label"))


def known_labels(models: Iterable[str]) -> dict[str, frozenset[str]]:
    """The labels of all versions of each of these models that exists, whatever their state."""
    found: dict[str, set[str]] = {
        name: set() for name in Model.objects.filter(name__in=set(models)).values_list("name", flat=True)
    }
    for name, label in Version.objects.filter(model_id__in=found).values_list("model_id", "label"):
        found[name].add(label)
    return {name: frozenset(labels) for name, labels in found.items()}


def variants_named(digests: Iterable[str]) -> Mapping[str, NamedVariant]:
    """What each of these digests stands for; unknown ones are absent."""
    rows = Variant.objects.filter(digest__in=set(digests)).values_list(
        "digest", "version__model_id", "version__label", "slug", "format"
    )
    return {digest: NamedVariant(digest, *names) for digest, *names in rows}


def digests_of(model: str) -> frozenset[str]:
    """The digests of all variants of a model."""
    return frozenset(Variant.objects.filter(version__model_id=model).values_list("digest", flat=True))


def weights_of(version_ids: Iterable[int]) -> frozenset[str]:
    """The sha256 of every weights file of these versions."""
    rows = Variant.objects.filter(version_id__in=set(version_ids))
    return frozenset(rows.values_list("weights_id", flat=True))


def weights_by_digest(digests: Iterable[str]) -> dict[str, str]:
    """The sha256 of the weights file of each variant digest; unknown digests are absent."""
    return dict(Variant.objects.filter(digest__in=set(digests)).values_list("digest", "weights_id"))


def _versions() -> QuerySet[Version]:
    return Version.objects.prefetch_related("variants")


def version_record(row: Version) -> VersionRecord:
    """The row as a value; for the services of this app."""
    return VersionRecord(
        id=row.pk,
        model=row.model_id,
        label=row.label,
        number=row.number,
        state=VersionState(row.state),
        role_version=row.role_version,
        notes=row.notes,
        git_sha=row.git_sha,
        metadata=dict(row.metadata),
        created_by=row.created_by,
        created_at=row.created_at,
        published_at=row.published_at,
        variants=tuple(_variant_record(item) for item in row.variants.all()),
    )


def _variant_record(row: Variant) -> VariantRecord:
    manifest_bytes = bytes(row.manifest)
    return VariantRecord(
        slug=row.slug,
        name=VariantName.parse(row.slug),
        digest=row.digest,
        manifest=Manifest.parse(manifest_bytes),
        manifest_bytes=manifest_bytes,
        content_bytes=row.content_bytes,
        format=row.format,
        inspection=dict(row.inspection),
    )


def aliases(model: str) -> list[AliasRecord]:
    """The aliases of a model, by name."""
    rows = Alias.objects.filter(model_id=model).select_related("version").order_by("name")
    return [alias_record(row) for row in rows]


def alias_record(row: Alias) -> AliasRecord:
    """The row as a value; for the services of this app."""
    return AliasRecord(row.model_id, row.name, row.version.label, row.updated_at)


def resolve(model: str, reference: str) -> VersionRecord:
    """A version by label or alias; raises NotFoundError. A label wins over an alias of the same name."""
    row = _versions().filter(model_id=model, label=reference).first()
    if row is None:
        row = _versions().filter(model_id=model, aliases__name=reference).first()
    if row is None:
        raise NotFoundError("version_not_found", f"expected a version or alias of {model[:80]}, got {reference[:80]!r}")
    return version_record(row)


def blob_length(sha256: str) -> int | None:
    """How many bytes a stored blob has, or None."""
    return Blob.objects.filter(pk=sha256).values_list("length", flat=True).first()


# ------------------------------------------------------------------------------------------------ deltas


BUILD_JOB_KIND: Final = "delta"
PLAN_JOB_KIND: Final = "delta-plan"


def build_job_key(old_sha256: str, new_sha256: str, codec: str) -> str:
    """What the job that makes a delta is known by."""
    return f"{old_sha256}-{new_sha256}-{codec}"


def delta_record(row: Delta) -> DeltaRecord:
    """The row as a value; `new` and `patch` must be selected with it."""
    return DeltaRecord(
        old_sha256=row.old_id,
        new_sha256=row.new_id,
        codec=row.codec,
        state=DeltaState(row.state),
        patch_sha256=row.patch_id,
        patch_bytes=None if row.patch is None else row.patch.length,
        made_bytes=row.made_bytes,
        new_bytes=row.new.length,
        devices=row.devices,
        build_s=row.build_s,
        cpu_s=row.cpu_s,
        detail=row.detail,
    )


def ready_deltas(old_sha256: str, new_sha256: str) -> list[DeltaRecord]:
    """Verified patches from one weights file to another, the smallest first."""
    rows = Delta.objects.filter(old_id=old_sha256, new_id=new_sha256, state=DeltaState.READY.value)
    return [delta_record(row) for row in rows.select_related("new", "patch").order_by("patch__length")]


def awaited_codecs(old_sha256: str, new_sha256: str, *, version_id: int) -> frozenset[str]:
    """The codecs in which a patch is still being made, or may yet be asked for while the version's plan is being made.

    Only work that a worker has or will have counts, whatever the rows of deltas say, and only until it has failed once: no
    device waits for what is being tried again.
    """
    if jobs.awaited_keys(kind=PLAN_JOB_KIND, keys=[str(version_id)]):
        return frozenset(codec.value for codec in Codec)
    rows = Delta.objects.filter(old_id=old_sha256, new_id=new_sha256, state=DeltaState.QUEUED.value)
    keys = {build_job_key(old_sha256, new_sha256, codec): codec for codec in rows.values_list("codec", flat=True)}
    return frozenset(keys[key] for key in jobs.awaited_keys(kind=BUILD_JOB_KIND, keys=keys)) if keys else frozenset()


def deltas(model: str, *, to_label: str | None = None, limit: int = 200) -> list[DeltaRecord]:
    """Deltas to the variants of a model, or of one version, the newest first."""
    targets = Variant.objects.filter(version__model_id=model)
    if to_label is not None:
        targets = targets.filter(version__label=to_label)
    rows = Delta.objects.filter(new_id__in=targets.values("weights_id")).select_related("new", "patch")
    return [delta_record(row) for row in rows.order_by("-pk")[:limit]]


def delta_savings(model: str) -> DeltaSavings:
    """How deltas to this model's variants came out."""
    weights = Variant.objects.filter(version__model_id=model).values("weights_id")
    rows = Delta.objects.filter(new_id__in=weights)
    counts = dict(rows.values_list("state").annotate(count=Count("pk")))
    pairs = (
        rows.filter(state=DeltaState.READY.value)
        .values("old_id", "new_id")
        .annotate(patch_bytes=Min("patch__length"), full_bytes=Max("new__length"))
    )
    sums = pairs.aggregate(patch=Sum("patch_bytes"), full=Sum("full_bytes"))
    return DeltaSavings(
        **{state.value: counts.get(state.value, 0) for state in DeltaState},
        patch_bytes=sums["patch"] or 0,
        full_bytes=sums["full"] or 0,
    )


def delta_counts() -> tuple[DeltaCount, ...]:
    """All deltas by codec and state."""
    rows = Delta.objects.values_list("codec", "state").annotate(count=Count("pk"), patch_bytes=Sum("patch__length"))
    return tuple(
        DeltaCount(codec, state, count, size or 0) for codec, state, count, size in rows.order_by("codec", "state")
    )
