"""Devices and what they last said of themselves. Private to this app."""

from django.db import models


class Device(models.Model):
    """One enrolled device. Times are the server's.

    `attributes` were given at enrolment; `reported_attributes` are the device's own word and never override them.
    """

    class State(models.TextChoices):
        """Whether the fleet deals with it."""

        ACTIVE = "active"
        QUARANTINED = "quarantined"
        REVOKED = "revoked"

    id = models.CharField(max_length=63, primary_key=True)
    state = models.CharField(max_length=16, choices=State.choices, default=State.ACTIVE)
    hardware_class = models.CharField(max_length=63, db_index=True)
    attributes = models.JSONField(default=dict)
    reported_attributes = models.JSONField(default=dict)
    capabilities = models.JSONField(default=dict)
    client_version = models.CharField(max_length=32, blank=True)
    online = models.BooleanField(default=False)
    enrolled_at = models.DateTimeField()
    last_check_at = models.DateTimeField(null=True)
    last_seen_at = models.DateTimeField(null=True, db_index=True)

    def __str__(self) -> str:
        return self.id


class DeviceModel(models.Model):
    """What a device last attested for one model. `active_*` is what it serves; `target_*` what it is updating to.

    `boot` and `seq` are of the newest report that was applied, so that a late one changes nothing; `reported_at` is when
    the device made it by its own clock, in seconds, so that a check which it made before changes nothing either.
    """

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="models")
    model = models.CharField(max_length=63)
    active_version = models.CharField(max_length=64, blank=True)
    active_digest = models.CharField(max_length=64, blank=True)
    weights_sha256 = models.CharField(max_length=64, blank=True)
    target_version = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=16)
    failure = models.CharField(max_length=16, blank=True)
    detail = models.CharField(max_length=512, blank=True)
    revision = models.PositiveBigIntegerField(default=0)
    contract = models.JSONField(null=True)
    denied = models.JSONField(default=list)
    boot = models.CharField(max_length=64, blank=True)
    seq = models.PositiveBigIntegerField(default=0)
    reported_at = models.BigIntegerField(null=True)
    active_since_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(name="device_model_unique", fields=["device", "model"])]
        indexes = [models.Index(name="device_model_by_version", fields=["model", "active_version"])]

    def __str__(self) -> str:
        return f"{self.device_id} {self.model}@{self.active_version}"


class FleetCount(models.Model):
    """How many devices run what, as a job counted them: of one model, or of the fleet if that is empty. For large fleets."""

    model = models.CharField(max_length=63, primary_key=True)
    counted = models.JSONField()
    counted_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.model or 'the fleet'} at {self.counted_at}"


class DeviceEvent(models.Model):
    """A device's timeline, append-only; (device, boot, seq) makes replays harmless."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="events")
    boot = models.CharField(max_length=64)
    seq = models.PositiveBigIntegerField()
    at = models.DateTimeField()
    received_at = models.DateTimeField()
    model = models.CharField(max_length=63)
    version = models.CharField(max_length=64, blank=True)
    rollout = models.CharField(max_length=64, blank=True, db_index=True)
    state = models.CharField(max_length=16)
    report = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint(name="device_event_unique", fields=["device", "boot", "seq"])]
        indexes = [models.Index(name="device_event_timeline", fields=["device", "-received_at"])]

    def __str__(self) -> str:
        return f"{self.device_id} {self.state}"


class UpdateTraffic(models.Model):
    """What ended updates to one variant took over the network, by the way in which the bytes came. Sums: rows only grow.

    `updates` reached the device's slot; `failed` did not. `fallbacks` counts devices that gave up a patch of this codec on the
    way. Bytes are of `updates`; `bytes_total` is what full downloads would have taken.
    """

    digest = models.CharField(max_length=64)
    transport = models.CharField(max_length=8)
    codec = models.CharField(max_length=16, blank=True)
    updates = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    fallbacks = models.PositiveBigIntegerField(default=0)
    bytes_received = models.PositiveBigIntegerField(default=0)
    bytes_total = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(name="update_traffic_unique", fields=["digest", "transport", "codec"])]

    def __str__(self) -> str:
        return f"{self.digest[:8]} {self.transport} {self.codec}"


class Group(models.Model):
    """A named set of devices given by an explicit list of ids."""

    name = models.CharField(max_length=63, primary_key=True)
    devices = models.ManyToManyField(Device, related_name="groups", blank=True)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
