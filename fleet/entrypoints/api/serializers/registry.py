"""Namespaces, models, versions, aliases, uploads, deltas."""

from typing import Any

from rest_framework import serializers
from rest_framework.serializers import Serializer

from fleet.domain.approvals import MAX_APPROVALS
from fleet.domain.repository import Profile
from fleet.entrypoints.api.pagination import PageQuery
from fleet.entrypoints.api.serializers.fields import PlainField

MAX_METADATA_CHARS = 2_097_152


class NamespaceBody(Serializer[Any]):
    """A new namespace."""

    name = serializers.CharField(max_length=31)
    profile = serializers.ChoiceField([item.value for item in Profile], default=Profile.DEV.value)


class NamespaceRulesBody(Serializer[Any]):
    """What holds for every rollout in a namespace."""

    approvals = serializers.IntegerField(required=False, min_value=0, max_value=MAX_APPROVALS)
    quiet_hours = serializers.JSONField(
        required=False,
        help_text='Windows such as `[{"days": ["sat", "sun"], "hours": ["00:00-24:00"], "time_zone": "Europe/Berlin"}]`.',
    )


class NamespaceSerializer(Serializer[Any]):
    """A team's area."""

    name = serializers.CharField()
    profile = serializers.CharField(help_text="`dev`: one signature, one-year roles. `prod`: two, 90 days.")
    approvals = serializers.IntegerField(help_text="How many other people have to approve each rollout, at least.")
    quiet_hours = PlainField(source="quiet.encode", help_text="When nothing starts or goes on by itself.")
    created_at = serializers.DateTimeField()


class ModelBody(Serializer[Any]):
    """A new model in an existing namespace."""

    name = serializers.CharField(max_length=63, help_text="`<namespace>.<name>`")
    description = serializers.CharField(max_length=512, allow_blank=True, default="")


class ModelSerializer(Serializer[Any]):
    """A model."""

    name = serializers.CharField(source="record.name")
    namespace = serializers.CharField(source="record.namespace")
    profile = serializers.CharField(source="record.profile")
    description = serializers.CharField(source="record.description")
    created_at = serializers.DateTimeField(source="record.created_at")
    latest_version = serializers.CharField(allow_null=True, help_text="The newest published version.")


class RoleBody(Serializer[Any]):
    """Signed TUF metadata, as its exact text."""

    metadata = serializers.CharField(max_length=MAX_METADATA_CHARS, trim_whitespace=False)


class RoleSerializer(Serializer[Any]):
    """The newest version of a role. To sign on top of it, verify it through the image repository, not from here."""

    role = serializers.CharField()
    version = serializers.IntegerField()
    published_version = serializers.IntegerField(help_text="0 until the publisher has published one.")
    expires_at = serializers.DateTimeField()
    metadata = serializers.CharField(help_text="The exact text that was signed.")


class StagedSerializer(Serializer[Any]):
    """Metadata that was verified and waits for the publisher."""

    role = serializers.CharField()
    version = serializers.IntegerField()
    expires_at = serializers.DateTimeField()


class VersionBody(Serializer[Any]):
    """A version to finalise: its manifests and the role that signs them. The blobs are uploaded before."""

    manifests = serializers.ListField(
        child=serializers.CharField(max_length=65_536, trim_whitespace=False), min_length=1, max_length=32
    )
    role = serializers.CharField(max_length=MAX_METADATA_CHARS, trim_whitespace=False)
    notes = serializers.CharField(max_length=20_000, allow_blank=True, allow_null=True, default="")
    git_sha = serializers.CharField(max_length=64, allow_blank=True, allow_null=True, default="")
    metadata = serializers.DictField(child=serializers.JSONField(allow_null=True), default=dict)


class FileSerializer(Serializer[Any]):
    """One file of a bundle."""

    name = serializers.CharField()
    role = serializers.CharField(source="role.value")
    sha256 = serializers.CharField()
    length = serializers.IntegerField()


class VariantSerializer(Serializer[Any]):
    """One build of a version. `digest` is what devices attest."""

    variant = serializers.CharField(source="slug")
    runtime = serializers.CharField(source="name.runtime")
    precision = serializers.CharField(source="name.precision")
    hardware = serializers.CharField(source="name.hardware")
    digest = serializers.CharField()
    format = serializers.CharField()
    content_bytes = serializers.IntegerField()
    weights_sha256 = serializers.CharField()
    files = FileSerializer(source="manifest.files", many=True)


class VersionSerializer(Serializer[Any]):
    """One immutable release of a model."""

    model = serializers.CharField()
    version = serializers.CharField(source="label")
    number = serializers.IntegerField()
    state = serializers.CharField(source="state.value", help_text="`publishing`, `published` or `revoked`.")
    role_version = serializers.IntegerField()
    notes = serializers.CharField()
    git_sha = serializers.CharField()
    metadata = serializers.JSONField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    published_at = serializers.DateTimeField(allow_null=True)
    variants = VariantSerializer(many=True)


class InspectionSerializer(Serializer[Any]):
    """What a variant's weights say of themselves."""

    variant = serializers.CharField(source="slug")
    digest = serializers.CharField()
    inspection = serializers.JSONField()
    manifest = serializers.SerializerMethodField(help_text="The exact text whose sha256 is the digest.")

    def get_manifest(self, variant: Any) -> str:
        """The manifest as text."""
        return bytes(variant.manifest_bytes).decode()


class InspectionsSerializer(Serializer[Any]):
    """The inspections of a version's variants."""

    model = serializers.CharField()
    version = serializers.CharField(source="label")
    variants = InspectionSerializer(many=True)


class AliasBody(Serializer[Any]):
    """Where an alias points."""

    version = serializers.CharField(max_length=64, help_text="A label, or another alias, which is resolved at once.")


class AliasSerializer(Serializer[Any]):
    """A movable name for a version."""

    model = serializers.CharField()
    name = serializers.CharField()
    version = serializers.CharField()
    updated_at = serializers.DateTimeField()


class UploadBody(Serializer[Any]):
    """A blob that is about to arrive."""

    sha256 = serializers.RegexField(r"\A[0-9a-f]{64}\Z")
    length = serializers.IntegerField(min_value=1)


class UploadSerializer(Serializer[Any]):
    """Where an upload stands: go on at `received`."""

    sha256 = serializers.CharField()
    length = serializers.IntegerField()
    received = serializers.IntegerField()
    complete = serializers.BooleanField()


class DeltaQuery(PageQuery):
    """Which deltas."""

    version = serializers.CharField(
        required=False, max_length=64, help_text="Deltas to this version only, by its label or an alias."
    )


class DeltaSerializer(Serializer[Any]):
    """A patch between two weights files."""

    old_sha256 = serializers.CharField()
    new_sha256 = serializers.CharField()
    codec = serializers.CharField()
    state = serializers.CharField(
        source="state.value", help_text="`queued`, `ready`, `useless`, `failed`, `left_out` or `expired`."
    )
    patch_sha256 = serializers.CharField(allow_null=True)
    patch_bytes = serializers.IntegerField(allow_null=True, help_text="While the patch is there.")
    made_bytes = serializers.IntegerField(allow_null=True, help_text="How large it came out, kept or not.")
    new_bytes = serializers.IntegerField()
    devices = serializers.IntegerField(help_text="Devices that could use it when it was asked for.")
    build_s = serializers.FloatField(allow_null=True, help_text="Making and proving it, seconds.")
    cpu_s = serializers.FloatField(allow_null=True)
    detail = serializers.CharField(help_text="Why it was left out, failed or was no use.")


class TransferSerializer(Serializer[Any]):
    """What finished updates took over the network, as devices reported it."""

    version = serializers.CharField()
    variant = serializers.CharField()
    format = serializers.CharField()
    transport = serializers.CharField(help_text="`full`, `delta` or `none`.")
    codec = serializers.CharField(help_text="Of the patch; empty where there was none.")
    updates = serializers.IntegerField(help_text="Installed, whatever became of them in probation.")
    failed = serializers.IntegerField(help_text="Not installed.")
    fallbacks = serializers.IntegerField(help_text="Devices that gave up a patch of this codec.")
    bytes_received = serializers.IntegerField()
    bytes_total = serializers.IntegerField(help_text="What full downloads would have taken.")


class SavingsSerializer(Serializer[Any]):
    """What deltas save: by build, and as it happened."""

    ready = serializers.IntegerField()
    queued = serializers.IntegerField()
    useless = serializers.IntegerField()
    failed = serializers.IntegerField()
    left_out = serializers.IntegerField()
    expired = serializers.IntegerField()
    patch_bytes = serializers.IntegerField(help_text="Of the smallest ready patch of each pair of files.")
    full_bytes = serializers.IntegerField(help_text="Of the files that these patches make.")
    transfers = TransferSerializer(many=True)
