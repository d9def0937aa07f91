"""Queued work in Django's admin, to read."""

from django.contrib import admin

from fleet.apps.evidence import EvidenceAdmin
from fleet.apps.jobs.models import Job


@admin.register(Job)
class JobAdmin(EvidenceAdmin):
    """What waits, what runs, what was given up and why."""

    list_display = ("kind", "key", "state", "attempts", "max_attempts", "run_after", "lease_owner", "lease_until")
    list_filter = ("kind", "state")
    search_fields = ("key",)
