"""What can be released: namespaces, models, versions, variants, files, aliases, deltas. Private to this app."""

from django.db import models
from django.db.models import Q

from fleet.domain.delta_states import DeltaState


class Namespace(models.Model):
    """A team's area. `dev` namespaces need one signature and get one-year roles.

    `approvals` is how many other people have to approve each rollout in it, at least; `quiet_hours` are as
    `fleet.domain.quiet` encodes them.
    """

    class Profile(models.TextChoices):
        """How strictly roles are held."""

        DEV = "dev"
        PROD = "prod"

    name = models.CharField(max_length=31, primary_key=True)
    profile = models.CharField(max_length=8, choices=Profile.choices, default=Profile.DEV)
    approvals = models.PositiveSmallIntegerField(default=0)
    quiet_hours = models.JSONField(default=list)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class Model(models.Model):
    """One model `<namespace>.<name>`. `plan_key` is the opaque name of its plan notice."""

    name = models.CharField(max_length=63, primary_key=True)
    namespace = models.ForeignKey(Namespace, on_delete=models.PROTECT, related_name="models")
    plan_key = models.CharField(max_length=32, unique=True)
    description = models.CharField(max_length=512, blank=True)
    last_number = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class Blob(models.Model):
    """Bytes that the store holds whole and verified, named by their sha256."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    length = models.PositiveBigIntegerField()
    uploaded_by = models.CharField(max_length=128)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.sha256


class Upload(models.Model):
    """A blob that is still arriving. `received` is the offset from which the sender goes on."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    length = models.PositiveBigIntegerField()
    received = models.PositiveBigIntegerField(default=0)
    uploaded_by = models.CharField(max_length=128)
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(name="upload_received_within_length", condition=Q(received__lte=models.F("length")))
        ]

    def __str__(self) -> str:
        return f"{self.sha256} {self.received}/{self.length}"


class Version(models.Model):
    """One immutable release of a model. Only `published` versions can be rolled out."""

    class State(models.TextChoices):
        """Where a version stands."""

        PUBLISHING = "publishing"
        PUBLISHED = "published"
        REVOKED = "revoked"

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="versions")
    label = models.CharField(max_length=64)
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=State.choices)
    role_version = models.PositiveIntegerField()
    notes = models.TextField(blank=True)
    git_sha = models.CharField(max_length=64, blank=True)
    metadata = models.JSONField(default=dict)
    created_by = models.CharField(max_length=128)
    created_at = models.DateTimeField()
    published_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(name="version_label_unique_in_model", fields=["model", "label"]),
            models.UniqueConstraint(name="version_number_unique_in_model", fields=["model", "number"]),
        ]
        ordering = ["-number"]

    def __str__(self) -> str:
        return f"{self.model_id}@{self.label}"


class Variant(models.Model):
    """One build of a version. `digest` is the sha256 of its manifest, the one signed list of its files."""

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="variants")
    slug = models.CharField(max_length=96)
    digest = models.CharField(max_length=64, db_index=True)
    manifest = models.BinaryField()
    format = models.CharField(max_length=32)
    content_bytes = models.PositiveBigIntegerField()
    weights = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")
    inspection = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint(name="variant_slug_unique_in_version", fields=["version", "slug"])]
        ordering = ["slug"]

    def __str__(self) -> str:
        return f"{self.version_id}/{self.slug}"


class VariantFile(models.Model):
    """A file that a variant's manifest lists."""

    variant = models.ForeignKey(Variant, on_delete=models.CASCADE, related_name="files")
    name = models.CharField(max_length=100)
    role = models.CharField(max_length=16)
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(name="variant_file_name_unique", fields=["variant", "name"])]
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Alias(models.Model):
    """A movable name (`champion`) for a version of a model."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="aliases")
    name = models.CharField(max_length=63)
    version = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="aliases")
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(name="alias_name_unique_in_model", fields=["model", "name"])]
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.model_id}:{self.name}"


class Delta(models.Model):
    """A patch between two weights blobs. `ready` means: decoded with the device's decoder and found equal.

    `devices` could use it when it was asked for. `made_bytes` is the size that came out, kept when the patch is not. `build_s`
    is wall time, `cpu_s` the process's, in seconds. Since `idle_since_at` nobody could use it.
    """

    old = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")
    new = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")
    codec = models.CharField(max_length=16)
    state = models.CharField(
        max_length=16, choices=[(item.value, item.value) for item in DeltaState], default=DeltaState.QUEUED.value
    )
    patch = models.ForeignKey(Blob, on_delete=models.PROTECT, null=True, related_name="+")
    devices = models.PositiveIntegerField(default=0)
    made_bytes = models.PositiveBigIntegerField(null=True)
    build_s = models.FloatField(null=True)
    cpu_s = models.FloatField(null=True)
    detail = models.CharField(max_length=512, blank=True)
    created_at = models.DateTimeField()
    built_at = models.DateTimeField(null=True)
    idle_since_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(name="delta_unique_per_pair_and_codec", fields=["old", "new", "codec"]),
            models.CheckConstraint(name="delta_ready_has_patch", condition=~Q(state="ready") | Q(patch__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.old_id[:8]}->{self.new_id[:8]} {self.codec} {self.state}"
