"""Devices and what they reported in Django's admin, to read."""

from django.contrib import admin

from fleet.apps.devices.models import Device, DeviceEvent, DeviceModel, Group
from fleet.apps.evidence import EvidenceAdmin


@admin.register(Device)
class DeviceAdmin(EvidenceAdmin):
    """Enrolled devices."""

    list_display = ("id", "state", "hardware_class", "online", "last_seen_at", "client_version")
    list_filter = ("state", "hardware_class", "online")
    search_fields = ("id",)


@admin.register(DeviceModel)
class DeviceModelAdmin(EvidenceAdmin):
    """What devices attest."""

    list_display = ("device", "model", "active_version", "target_version", "state", "failure", "updated_at")
    list_filter = ("model", "state", "failure")
    list_select_related = ("device",)
    search_fields = ("device__id",)


@admin.register(DeviceEvent)
class DeviceEventAdmin(EvidenceAdmin):
    """Every state report."""

    list_display = ("received_at", "device", "model", "version", "state", "rollout")
    list_filter = ("state",)
    list_select_related = ("device",)
    search_fields = ("device__id", "rollout")


@admin.register(Group)
class GroupAdmin(EvidenceAdmin):
    """Named sets of devices."""

    list_display = ("name", "created_at")
