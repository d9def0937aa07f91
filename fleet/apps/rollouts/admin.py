"""Rollouts and decisions in Django's admin, to read."""

from django.contrib import admin

from fleet.apps.evidence import EvidenceAdmin
from fleet.apps.rollouts.models import Decision, Lease, PhaseRun, Rollout


@admin.register(Rollout)
class RolloutAdmin(EvidenceAdmin):
    """Movements of a population to a version."""

    list_display = ("id", "model", "version", "state", "phase", "created_by", "created_at", "ended_at")
    list_filter = ("state",)
    list_select_related = ("model", "version")
    search_fields = ("id",)


@admin.register(PhaseRun)
class PhaseRunAdmin(EvidenceAdmin):
    """Phases as they happened."""

    list_display = ("rollout", "index", "share", "eligible", "treated", "control", "started_at", "ended_at")
    list_select_related = ("rollout",)


@admin.register(Decision)
class DecisionAdmin(EvidenceAdmin):
    """What was decided, by whom, on what evidence."""

    list_display = ("at", "rollout", "phase", "action", "verdict", "actor", "sentence")
    list_filter = ("action", "verdict")
    list_select_related = ("rollout",)


@admin.register(Lease)
class LeaseAdmin(EvidenceAdmin):
    """Who leads."""

    list_display = ("name", "holder", "token", "expires_at")
