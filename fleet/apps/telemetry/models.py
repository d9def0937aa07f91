"""What devices measured. Private to this app. Everything is additive and idempotent."""

from django.db import models


class Window(models.Model):
    """One window of sufficient statistics; (device, boot, seq) makes replays harmless."""

    device_id = models.CharField(max_length=63)
    boot = models.CharField(max_length=64)
    seq = models.PositiveBigIntegerField()
    model = models.CharField(max_length=63)
    version = models.CharField(max_length=64)
    digest = models.CharField(max_length=64, blank=True)
    revision = models.PositiveBigIntegerField()
    route = models.CharField(max_length=16)
    started_at = models.DateTimeField()
    duration_s = models.FloatField()
    n = models.PositiveBigIntegerField()
    errors = models.PositiveBigIntegerField()
    nan = models.PositiveBigIntegerField()
    latency = models.BinaryField()
    latency_sum_ms = models.FloatField()
    latency_sum_squares = models.FloatField()
    during_update = models.BooleanField()
    clock_trusted = models.BooleanField()
    rss_bytes = models.PositiveBigIntegerField()
    metrics = models.JSONField(default=dict)
    received_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(name="window_unique", fields=["device_id", "boot", "seq"])]
        indexes = [
            models.Index(name="window_by_device", fields=["device_id", "model", "-started_at"]),
            models.Index(name="window_by_arrival", fields=["received_at"]),
            models.Index(name="window_by_device_arrival", fields=["device_id", "received_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.device_id} {self.model}@{self.version} n={self.n}"


class LabelCredit(models.Model):
    """A label, credited to the version and revision that made the prediction. Unique per (prediction, source)."""

    prediction = models.CharField(max_length=400)
    source = models.CharField(max_length=32)
    device_id = models.CharField(max_length=63)
    model = models.CharField(max_length=63)
    version = models.CharField(max_length=64)
    revision = models.PositiveBigIntegerField()
    predicted_at = models.DateTimeField()
    label = models.CharField(max_length=64)
    correct = models.BooleanField()
    received_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(name="label_unique", fields=["prediction", "source"])]
        indexes = [
            models.Index(name="label_by_device", fields=["device_id", "model", "-predicted_at"]),
            models.Index(name="label_by_arrival", fields=["received_at"]),
            models.Index(name="label_by_device_arrival", fields=["device_id", "received_at"]),
        ]

    def __str__(self) -> str:
        return f"{self.prediction} {self.correct}"


class GateTotal(models.Model):
    """One device's total of one metric in one phase of one rule: what a gate reads, the device being the unit.

    `squares` sums squared values, for metrics that are means of values.
    """

    class Side(models.TextChoices):
        """Which arm of the phase the device was in while it measured this."""

        TREATED = "treated"
        CONTROL = "control"

    rule_id = models.PositiveBigIntegerField()
    phase = models.PositiveIntegerField()
    device_id = models.CharField(max_length=63)
    hardware_class = models.CharField(max_length=63)
    side = models.CharField(max_length=8, choices=Side.choices)
    metric = models.CharField(max_length=64)
    numerator = models.FloatField(default=0.0)
    denominator = models.FloatField(default=0.0)
    squares = models.FloatField(default=0.0)
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                name="gate_total_unique", fields=["rule_id", "phase", "device_id", "side", "metric"]
            )
        ]

    def __str__(self) -> str:
        return f"rule {self.rule_id} phase {self.phase} {self.device_id} {self.metric}"


class DeviceTotal(models.Model):
    """One device's total of one version, whatever rollout was under way: its past, once it runs another version.

    Slow inferences are by `slow_ms`; totals by another threshold are another row.
    """

    device_id = models.CharField(max_length=63)
    model = models.CharField(max_length=63)
    version = models.CharField(max_length=64)
    slow_ms = models.FloatField()
    n = models.PositiveBigIntegerField(default=0)
    errors = models.PositiveBigIntegerField(default=0)
    nan = models.PositiveBigIntegerField(default=0)
    timed = models.PositiveBigIntegerField(default=0)
    slow = models.PositiveBigIntegerField(default=0)
    labels = models.PositiveBigIntegerField(default=0)
    correct = models.PositiveBigIntegerField(default=0)
    compared = models.PositiveBigIntegerField(default=0)
    agreed = models.PositiveBigIntegerField(default=0)
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(name="device_total_unique", fields=["model", "version", "device_id", "slow_ms"])
        ]
        indexes = [models.Index(name="device_total_by_age", fields=["updated_at"])]

    def __str__(self) -> str:
        return f"{self.device_id} {self.model}@{self.version}"


class VersionTotal(models.Model):
    """Fleet-wide totals of one version on one hardware class, for display; never for a verdict."""

    model = models.CharField(max_length=63)
    version = models.CharField(max_length=64)
    hardware_class = models.CharField(max_length=63)
    n = models.PositiveBigIntegerField(default=0)
    errors = models.PositiveBigIntegerField(default=0)
    nan = models.PositiveBigIntegerField(default=0)
    latency = models.BinaryField(default=b"\x01")
    latency_sum_ms = models.FloatField(default=0.0)
    labels = models.PositiveBigIntegerField(default=0)
    correct = models.PositiveBigIntegerField(default=0)
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(name="version_total_unique", fields=["model", "version", "hardware_class"])
        ]

    def __str__(self) -> str:
        return f"{self.model}@{self.version} on {self.hardware_class}"


class DroppedMessage(models.Model):
    """Messages that were refused and dropped, counted by topic kind and error code, with the last sample."""

    kind = models.CharField(max_length=16)
    code = models.CharField(max_length=32)
    count = models.PositiveBigIntegerField(default=0)
    last_device_id = models.CharField(max_length=63, blank=True)
    last_detail = models.CharField(max_length=512, blank=True)
    last_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(name="dropped_unique", fields=["kind", "code"])]

    def __str__(self) -> str:
        return f"{self.kind} {self.code} x{self.count}"
