"""Deliveries in Django's admin, to read; a webhook's secret is shown nowhere."""

from django.contrib import admin

from fleet.apps.evidence import EvidenceAdmin
from fleet.apps.webhooks.models import Delivery


@admin.register(Delivery)
class DeliveryAdmin(EvidenceAdmin):
    """What was told to whom."""

    list_display = ("created_at", "webhook", "event", "state", "attempts", "status", "error")
    list_filter = ("state", "event")
    list_select_related = ("webhook",)
