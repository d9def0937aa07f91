"""Messages that wait for the publisher in Django's admin, to read."""

from django.contrib import admin

from fleet.apps.evidence import EvidenceAdmin
from fleet.apps.outbox.models import Message


@admin.register(Message)
class MessageAdmin(EvidenceAdmin):
    """Normally an empty list: published messages are gone."""

    list_display = ("id", "topic", "retain", "attempts", "created_at", "not_before_at")
