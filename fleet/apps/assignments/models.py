"""Rules, offers and assignments. Private to this app.

A rule costs a few rows whatever the fleet's size; an offer or assignment row is written only when a device asks.
"""

from django.db import models
from django.db.models import Q

BUCKETS = 1_000_000


class Rule(models.Model):
    """What a rollout asks of the devices that match it. `completed` rules are baselines; `withdrawn` ones are history.

    For `delta_wait_s` from the start of a phase, a device that could use a patch still being built is asked to wait.
    `metrics` are what is counted for it, by name with their shapes; null means every metric that is built in.
    `class_ends` are ranges of single hardware classes, `listed` the devices that a phase names, `expected` how many
    devices the present phase treats, as they were counted. `denied`, `delivery`, `together` and `shadow` are as in the domain.
    """

    class State(models.TextChoices):
        """How the rule takes part in assignment."""

        RUNNING = "running"
        HELD = "held"
        COMPLETED = "completed"
        WITHDRAWN = "withdrawn"

    source = models.CharField(max_length=64, unique=True)
    model = models.ForeignKey("registry.Model", on_delete=models.PROTECT, related_name="+")
    version = models.ForeignKey("registry.Version", on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=16, choices=State.choices)
    seed = models.CharField(max_length=64)
    phase = models.PositiveIntegerField(default=0)
    phase_started_at = models.DateTimeField(null=True)
    treated_end = models.PositiveIntegerField(default=0)
    control_start = models.PositiveIntegerField(default=BUCKETS)
    hardware_classes = models.JSONField(default=list)
    groups = models.JSONField(default=list)
    filter = models.TextField(blank=True, default="")
    device_policy = models.JSONField(default=dict)
    parameters = models.JSONField(default=dict)
    allow_delta = models.BooleanField(default=True)
    delta_wait_s = models.FloatField(default=30.0)
    jitter_s = models.FloatField(default=0.0)
    priority = models.IntegerField(default=0)
    metrics = models.JSONField(null=True, default=None)
    class_ends = models.JSONField(default=dict)
    listed = models.JSONField(default=list)
    denied = models.JSONField(default=dict)
    holdback_start = models.PositiveIntegerField(default=BUCKETS)
    holdback_s = models.FloatField(default=0.0)
    delivery = models.JSONField(default=dict)
    together = models.JSONField(default=list)
    shadow = models.JSONField(null=True, default=None)
    expected = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="rule_ranges_do_not_overlap",
                condition=Q(treated_end__lte=BUCKETS) & Q(control_start__lte=BUCKETS),
            )
        ]
        indexes = [models.Index(name="rule_active", fields=["model", "state"])]

    def __str__(self) -> str:
        return f"{self.source} {self.state}"


class RuleArm(models.Model):
    """One arm of an experiment's rule: devices in buckets [start, end) get its version, unless it `is_dropped`."""

    rule = models.ForeignKey(Rule, on_delete=models.CASCADE, related_name="arms")
    name = models.CharField(max_length=32)
    version = models.ForeignKey("registry.Version", on_delete=models.PROTECT, related_name="+")
    start = models.PositiveIntegerField()
    end = models.PositiveIntegerField()
    is_dropped = models.BooleanField(default=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(name="rule_arm_unique", fields=["rule", "name"]),
            models.CheckConstraint(
                name="rule_arm_range", condition=Q(start__lte=models.F("end")) & Q(end__lte=BUCKETS)
            ),
        ]
        ordering = ["start", "end", "name"]

    def __str__(self) -> str:
        return f"rule {self.rule_id} arm {self.name}"


class Stop(models.Model):
    """Nobody may change what devices run: of one model, of a namespace, or of everything (`*`). Lifted, it is history."""

    scope = models.CharField(max_length=63)
    reason = models.CharField(max_length=500)
    created_by = models.CharField(max_length=128)
    created_at = models.DateTimeField()
    lifted_by = models.CharField(max_length=128, blank=True)
    lifted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(name="stop_once", fields=["scope"], condition=Q(lifted_at__isnull=True)),
        ]

    def __str__(self) -> str:
        return f"stop of {self.scope}"


class PlanRevision(models.Model):
    """How often a model's plan changed: the revision of its retained notice."""

    model = models.OneToOneField("registry.Model", on_delete=models.CASCADE, primary_key=True, related_name="+")
    revision = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.model_id} r{self.revision}"


class Offer(models.Model):
    """The first time that a rule was offered to a device, and what became of it. Intent to treat counts these.

    `arm` is that of an experiment, empty for a rollout.
    `outcome_boot` and `outcome_seq` are of the report that settled it, so that a late report changes nothing.
    """

    class Outcome(models.TextChoices):
        """How the offer ended on the device."""

        PENDING = "pending"
        COMMITTED = "committed"
        FAILED = "failed"
        ROLLED_BACK = "rolled_back"

    device = models.ForeignKey("devices.Device", on_delete=models.CASCADE, related_name="+")
    rule = models.ForeignKey(Rule, on_delete=models.CASCADE, related_name="offers")
    phase = models.PositiveIntegerField()
    bucket = models.PositiveIntegerField()
    arm = models.CharField(max_length=32, blank=True, default="")
    hardware_class = models.CharField(max_length=63)
    digest = models.CharField(max_length=64)
    offered_at = models.DateTimeField()
    outcome = models.CharField(max_length=16, choices=Outcome.choices, default=Outcome.PENDING)
    failure = models.CharField(max_length=16, blank=True)
    outcome_at = models.DateTimeField(null=True)
    outcome_boot = models.CharField(max_length=64, blank=True)
    outcome_seq = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(name="offer_once_per_device_and_rule", fields=["device", "rule"])]
        indexes = [
            models.Index(name="offer_by_rule_phase", fields=["rule", "phase", "outcome"]),
            # What pacing asks: how many devices of a rule are under way, and how many began within a minute.
            models.Index(name="offer_by_rule_time", fields=["rule", "offered_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.device_id} {self.outcome}"


class Assignment(models.Model):
    """What one device was last told for one model, and why. `revision` rises with every change of it."""

    device = models.ForeignKey("devices.Device", on_delete=models.CASCADE, related_name="+")
    model = models.ForeignKey("registry.Model", on_delete=models.PROTECT, related_name="+")
    version = models.ForeignKey("registry.Version", on_delete=models.PROTECT, null=True, related_name="+")
    digest = models.CharField(max_length=64, blank=True)
    rule = models.ForeignKey(Rule, on_delete=models.PROTECT, null=True, related_name="+")
    arm = models.CharField(max_length=16)
    phase = models.PositiveIntegerField(default=0)
    revision = models.PositiveBigIntegerField(default=1)
    decision = models.CharField(max_length=16)
    because = models.CharField(max_length=512)
    trace = models.JSONField(default=list)
    decided_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(name="assignment_unique_per_device_model", fields=["device", "model"])]

    def __str__(self) -> str:
        return f"{self.device_id} {self.model_id} {self.decision}"
