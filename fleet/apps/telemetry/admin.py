"""What devices measured in Django's admin, to read."""

from django.contrib import admin

from fleet.apps.evidence import EvidenceAdmin
from fleet.apps.telemetry.models import DeviceTotal, DroppedMessage, GateTotal, LabelCredit, VersionTotal, Window


@admin.register(Window)
class WindowAdmin(EvidenceAdmin):
    """Windows of sufficient statistics."""

    list_display = (
        "started_at",
        "device_id",
        "model",
        "version",
        "n",
        "errors",
        "nan",
        "during_update",
        "clock_trusted",
    )
    list_filter = ("during_update", "clock_trusted")
    search_fields = ("device_id",)


@admin.register(LabelCredit)
class LabelCreditAdmin(EvidenceAdmin):
    """Labels and the predictions that they belong to."""

    list_display = ("predicted_at", "device_id", "model", "version", "label", "correct", "source")
    list_filter = ("correct", "source")
    search_fields = ("device_id",)


@admin.register(GateTotal)
class GateTotalAdmin(EvidenceAdmin):
    """What gates read."""

    list_display = ("rule_id", "phase", "device_id", "side", "metric", "numerator", "denominator")
    list_filter = ("side", "metric")
    search_fields = ("device_id",)


@admin.register(DeviceTotal)
class DeviceTotalAdmin(EvidenceAdmin):
    """What devices' pasts are read from."""

    list_display = ("model", "version", "device_id", "slow_ms", "n", "errors", "labels", "correct", "updated_at")
    search_fields = ("device_id",)


@admin.register(VersionTotal)
class VersionTotalAdmin(EvidenceAdmin):
    """Totals of versions, for display."""

    list_display = ("model", "version", "hardware_class", "n", "errors", "labels", "correct", "updated_at")


@admin.register(DroppedMessage)
class DroppedMessageAdmin(EvidenceAdmin):
    """What was refused, how often, and the last sample."""

    list_display = ("kind", "code", "count", "last_device_id", "last_detail", "last_at")
