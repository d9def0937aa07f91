"""Trust in Django's admin, to read. Hashes of secrets are not shown: they are of no use to a reader."""

from django.contrib import admin

from fleet.apps.evidence import EvidenceAdmin
from fleet.apps.trust.models import ApiToken, Certificate, Claim, DirectorHead, SignedMetadata


@admin.register(SignedMetadata)
class SignedMetadataAdmin(EvidenceAdmin):
    """Signed roles, every version."""

    list_display = ("repository", "role", "version", "state", "expires_at", "created_at")
    list_filter = ("repository", "state")
    search_fields = ("role",)
    exclude = ("payload",)


@admin.register(DirectorHead)
class DirectorHeadAdmin(EvidenceAdmin):
    """The newest director version of each device."""

    list_display = ("device_id", "version", "issued_at")
    search_fields = ("device_id",)


@admin.register(Certificate)
class CertificateAdmin(EvidenceAdmin):
    """Device certificates."""

    list_display = ("serial", "device_id", "not_before", "not_after", "revoked_at")
    search_fields = ("device_id", "serial")


@admin.register(Claim)
class ClaimAdmin(EvidenceAdmin):
    """Single-use rights to enrol."""

    list_display = ("device_id", "hardware_class", "created_by", "created_at", "expires_at", "used_at")
    search_fields = ("device_id",)
    exclude = ("token_sha256",)


@admin.register(ApiToken)
class ApiTokenAdmin(EvidenceAdmin):
    """Pipelines' credentials."""

    list_display = ("name", "prefix", "scopes", "created_by", "expires_at", "last_used_at", "revoked_at")
    exclude = ("token_sha256",)
