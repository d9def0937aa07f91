"""Experiments and decisions in Django's admin, to read."""

from django.contrib import admin

from fleet.apps.evidence import EvidenceAdmin
from fleet.apps.experiments.models import Decision, Experiment, Look


@admin.register(Experiment)
class ExperimentAdmin(EvidenceAdmin):
    """Arms that are compared."""

    list_display = ("id", "model", "state", "verdict", "winner", "created_by", "created_at", "ended_at")
    list_filter = ("state", "verdict")
    list_select_related = ("model",)
    search_fields = ("id",)


@admin.register(Decision)
class ExperimentDecisionAdmin(EvidenceAdmin):
    """What was decided, by whom, on what evidence."""

    list_display = ("at", "experiment", "action", "verdict", "actor", "sentence")
    list_filter = ("action", "verdict")
    list_select_related = ("experiment",)


@admin.register(Look)
class LookAdmin(EvidenceAdmin):
    """Intervals over time."""

    list_display = ("at", "experiment")
    list_select_related = ("experiment",)
