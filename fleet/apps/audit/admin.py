"""The audit log in Django's admin, to read."""

from django.contrib import admin

from fleet.apps.audit.models import Entry
from fleet.apps.evidence import EvidenceAdmin


@admin.register(Entry)
class EntryAdmin(EvidenceAdmin):
    """Who did what."""

    list_display = ("at", "actor", "action", "subject")
    search_fields = ("actor", "subject")
    list_filter = ("action",)
