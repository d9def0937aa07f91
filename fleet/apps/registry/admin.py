"""The registry in Django's admin, to read: versions are made by signed pushes, never by hand."""

from django.contrib import admin

from fleet.apps.evidence import EvidenceAdmin
from fleet.apps.registry.models import Alias, Blob, Delta, Model, Namespace, Upload, Variant, Version


@admin.register(Namespace)
class NamespaceAdmin(EvidenceAdmin):
    """Teams' areas."""

    list_display = ("name", "profile", "created_at")


@admin.register(Model)
class ModelAdmin(EvidenceAdmin):
    """Models."""

    list_display = ("name", "namespace", "last_number", "created_at")
    list_select_related = ("namespace",)
    search_fields = ("name",)


@admin.register(Version)
class VersionAdmin(EvidenceAdmin):
    """Immutable releases."""

    list_display = ("model", "label", "state", "created_by", "created_at", "published_at")
    list_filter = ("state", "model")
    list_select_related = ("model",)


@admin.register(Variant)
class VariantAdmin(EvidenceAdmin):
    """Builds of versions."""

    list_display = ("version", "slug", "format", "content_bytes", "digest")
    list_filter = ("format",)
    list_select_related = ("version",)
    search_fields = ("digest",)
    exclude = ("manifest",)


@admin.register(Alias)
class AliasAdmin(EvidenceAdmin):
    """Movable names."""

    list_display = ("model", "name", "version", "updated_at")
    list_select_related = ("model", "version")


@admin.register(Delta)
class DeltaAdmin(EvidenceAdmin):
    """Patches between weights files."""

    list_display = ("id", "old_id", "new_id", "codec", "state", "build_s", "detail")
    list_filter = ("state", "codec")


@admin.register(Blob)
class BlobAdmin(EvidenceAdmin):
    """Stored bytes."""

    list_display = ("sha256", "length", "uploaded_by", "created_at")
    search_fields = ("sha256",)


@admin.register(Upload)
class UploadAdmin(EvidenceAdmin):
    """Bytes that are still arriving."""

    list_display = ("sha256", "received", "length", "uploaded_by", "updated_at")
