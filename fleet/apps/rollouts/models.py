"""Rollouts, phases and decisions. Private to this app."""

from django.db import models

from fleet.apps.consent import Consent


class Rollout(models.Model):
    """One movement of a population to a version. `policy` is the validated plan as `domain.policy` encodes it.

    `clock_from_at` is where the deadline of the present phase counts from: its start, or the last resume. `reaches` says
    whom each phase treats, as it was decided when the rollout began. `revert_step` counts the steps of a revert in phases.
    `ignores_quiet_hours`: a person let it go on in its namespace's quiet hours.
    """

    class State(models.TextChoices):
        """As in `fleet.domain.rollout_states`."""

        DRAFT = "draft"
        AWAITING_APPROVAL = "awaiting_approval"
        SCHEDULED = "scheduled"
        RUNNING = "running"
        HELD = "held"
        COMPLETED = "completed"
        REVERTING = "reverting"
        REVERTED = "reverted"
        CANCELLED = "cancelled"

    id = models.CharField(max_length=14, primary_key=True)
    model = models.ForeignKey("registry.Model", on_delete=models.PROTECT, related_name="+")
    version = models.ForeignKey("registry.Version", on_delete=models.PROTECT, related_name="+")
    against = models.ForeignKey("registry.Version", on_delete=models.PROTECT, null=True, related_name="+")
    rule = models.OneToOneField("assignments.Rule", on_delete=models.PROTECT, null=True, related_name="+")
    state = models.CharField(max_length=24, choices=State.choices)
    seed = models.CharField(max_length=64)
    policy = models.JSONField()
    phase = models.PositiveIntegerField(default=0)
    phase_started_at = models.DateTimeField(null=True)
    clock_from_at = models.DateTimeField(null=True)
    approvals_required = models.PositiveSmallIntegerField(default=0)
    revision = models.PositiveBigIntegerField(default=1)
    because = models.CharField(max_length=512, blank=True)
    created_by = models.CharField(max_length=128)
    creator_identity = models.CharField(max_length=128, blank=True, default="")
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    reverting_since_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    reaches = models.JSONField(default=list)
    revert_step = models.PositiveIntegerField(default=0)
    ignores_quiet_hours = models.BooleanField(default=False)

    class Meta:
        indexes = [models.Index(name="rollout_by_state", fields=["state"])]
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return self.id


class Approval(Consent):
    """One person's consent to a rollout."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="approvals")

    class Meta(Consent.Meta):
        constraints = [
            models.UniqueConstraint(name="approval_once", fields=["rollout", "actor", "is_emergency"]),
        ]

    def __str__(self) -> str:
        return f"{self.rollout_id} by {self.actor}"


class PhaseRun(models.Model):
    """One phase of one rollout as it happened. Counts are taken once, at or soon after its start; `judgement` at its end.

    Until `counted_at` the counts are unknown, and zero.
    """

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="phases")
    index = models.PositiveIntegerField()
    share = models.FloatField()
    eligible = models.PositiveIntegerField(default=0)
    treated = models.PositiveIntegerField(default=0)
    control = models.PositiveIntegerField(default=0)
    classes = models.JSONField(default=dict)
    judgement = models.JSONField(default=dict)
    started_at = models.DateTimeField()
    counted_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(name="phase_run_unique", fields=["rollout", "index"])]
        ordering = ["index"]

    def __str__(self) -> str:
        return f"{self.rollout_id} phase {self.index}"


class Look(models.Model):
    """What the conductor last saw of a rollout and wanted of it: what pages show, so that nobody judges for a page.

    `gist` is a hash of what it said; figures alone are stored now and then. Kept when the rollout has ended.
    """

    rollout = models.OneToOneField(Rollout, on_delete=models.CASCADE, primary_key=True, related_name="+")
    phase = models.PositiveIntegerField()
    at = models.DateTimeField()
    action = models.CharField(max_length=16)
    sentence = models.TextField()
    judgement = models.JSONField()
    offers = models.JSONField()
    gist = models.CharField(max_length=64)

    def __str__(self) -> str:
        return f"{self.rollout_id} phase {self.phase} at {self.at}"


class Watched(models.Model):
    """A device that was there before a phase began, on either side: whose silence is compared. Kept while it runs."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="+")
    phase = models.PositiveIntegerField()
    device = models.ForeignKey("devices.Device", on_delete=models.CASCADE, related_name="+")
    hardware_class = models.CharField(max_length=63)
    side = models.CharField(max_length=8)

    class Meta:
        constraints = [models.UniqueConstraint(name="watched_once", fields=["rollout", "phase", "device"])]

    def __str__(self) -> str:
        return f"{self.rollout_id} phase {self.phase} {self.side} {self.device_id}"


class Decision(models.Model):
    """What was decided about a rollout, by whom or by which gate, with the evidence frozen at that moment."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="decisions")
    phase = models.PositiveIntegerField()
    at = models.DateTimeField()
    action = models.CharField(max_length=16)
    verdict = models.CharField(max_length=16, blank=True)
    actor = models.CharField(max_length=128)
    sentence = models.CharField(max_length=1024)
    evidence = models.JSONField(default=dict)

    class Meta:
        indexes = [models.Index(name="decision_by_time", fields=["-at"])]
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.rollout_id} {self.action}"


class Lease(models.Model):
    """Leadership of a process kind. `token` rises with every new holder and fences writes of an older one.

    `jumped_at` is when the leader last saw the server's clock jump.
    """

    name = models.CharField(max_length=32, primary_key=True)
    holder = models.CharField(max_length=64)
    token = models.PositiveBigIntegerField()
    expires_at = models.DateTimeField()
    jumped_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.name} held by {self.holder}"
