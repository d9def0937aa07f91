"""Experiments, decisions and looks. Private to this app."""

from django.db import models
from django.db.models import Q

from fleet.apps.consent import Consent


class Experiment(models.Model):
    """Arms of one model that are compared. `spec` is as `fleet.domain.experiment` encodes it.

    `planned` are the eligible devices by arm and class, counted once at the start; `dropped` are the arms that were
    found harmful, with why. `released_at`: when devices stopped
    being held to their arms, which for a promoted experiment is the end of the winner's rollout.
    """

    class State(models.TextChoices):
        """As in `fleet.domain.experiment_states`."""

        DRAFT = "draft"
        AWAITING_APPROVAL = "awaiting_approval"
        SCHEDULED = "scheduled"
        RUNNING = "running"
        DECIDED = "decided"
        PROMOTED = "promoted"
        STOPPED = "stopped"

    id = models.CharField(max_length=14, primary_key=True)
    model = models.ForeignKey("registry.Model", on_delete=models.PROTECT, related_name="+")
    rule = models.OneToOneField("assignments.Rule", on_delete=models.PROTECT, null=True, related_name="+")
    rollout = models.ForeignKey("rollouts.Rollout", on_delete=models.PROTECT, null=True, related_name="+")
    state = models.CharField(max_length=24, choices=State.choices)
    approvals_required = models.PositiveSmallIntegerField(default=0)
    ignores_quiet_hours = models.BooleanField(default=False)
    seed = models.CharField(max_length=64, blank=True, default="")
    spec = models.JSONField()
    planned = models.JSONField(default=dict)
    dropped = models.JSONField(default=dict)
    verdict = models.CharField(max_length=16, blank=True, default="")
    winner = models.CharField(max_length=32, blank=True, default="")
    because = models.CharField(max_length=512, blank=True, default="")
    revision = models.PositiveBigIntegerField(default=1)
    created_by = models.CharField(max_length=128)
    creator_identity = models.CharField(max_length=128, blank=True, default="")
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    ends_at = models.DateTimeField(null=True)
    decided_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    released_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="experiment_one_per_model", fields=["model"], condition=Q(state__in=["running", "decided"])
            )
        ]
        indexes = [models.Index(name="experiment_by_state", fields=["state"])]
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return self.id


class Approval(Consent):
    """One person's consent to an experiment."""

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="approvals")

    class Meta(Consent.Meta):
        constraints = [
            models.UniqueConstraint(name="experiment_approval_once", fields=["experiment", "actor", "is_emergency"])
        ]

    def __str__(self) -> str:
        return f"{self.experiment_id} by {self.actor}"


class Decision(models.Model):
    """What was decided about an experiment, by whom, with the evidence frozen at that moment."""

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="decisions")
    at = models.DateTimeField()
    action = models.CharField(max_length=16)
    verdict = models.CharField(max_length=16, blank=True)
    actor = models.CharField(max_length=128)
    sentence = models.CharField(max_length=1024)
    evidence = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.experiment_id} {self.action}"


class Look(models.Model):
    """Intervals as they stood at one moment, for the picture of an experiment over time; no verdict reads it."""

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="looks")
    at = models.DateTimeField()
    intervals = models.JSONField(default=list)

    class Meta:
        indexes = [models.Index(name="look_by_time", fields=["experiment", "at"])]
        ordering = ["at", "id"]

    def __str__(self) -> str:
        return f"{self.experiment_id} {self.at}"
