"""Rules, offers and assignments in Django's admin, to read."""

from django.contrib import admin

from fleet.apps.assignments.models import Assignment, Offer, PlanRevision, Rule
from fleet.apps.evidence import EvidenceAdmin


@admin.register(Rule)
class RuleAdmin(EvidenceAdmin):
    """What rollouts ask of devices."""

    list_display = ("source", "model", "version", "state", "phase", "treated_end", "control_start", "created_at")
    list_filter = ("state",)
    list_select_related = ("model", "version")
    search_fields = ("source",)


@admin.register(PlanRevision)
class PlanRevisionAdmin(EvidenceAdmin):
    """The revision of each model's plan notice."""

    list_display = ("model_id", "revision")


@admin.register(Offer)
class OfferAdmin(EvidenceAdmin):
    """What was offered to whom, and what became of it."""

    list_display = ("offered_at", "device", "rule", "phase", "hardware_class", "outcome", "failure", "outcome_at")
    list_filter = ("outcome", "failure")
    list_select_related = ("device", "rule")
    search_fields = ("device__id", "rule__source")


@admin.register(Assignment)
class AssignmentAdmin(EvidenceAdmin):
    """What each device was last told."""

    list_display = ("device", "model", "version", "decision", "arm", "revision", "because", "decided_at")
    list_filter = ("decision", "arm")
    list_select_related = ("device", "model", "version")
    search_fields = ("device__id",)
