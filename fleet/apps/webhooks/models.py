"""Webhooks and their deliveries. Private to this app."""

from django.db import models


class Webhook(models.Model):
    """An address that wants to be told. An empty `namespace` means everything; `seen_entry` is where the next look begins.

    The secret is kept as it is, since every delivery is signed with it; it is shown once.
    """

    namespace = models.CharField(max_length=31, blank=True)
    url = models.CharField(max_length=500)
    events = models.JSONField()
    secret = models.CharField(max_length=64)
    seen_entry = models.PositiveBigIntegerField(default=0)
    created_by = models.CharField(max_length=128)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.url} for {self.namespace or 'everything'}"


class Delivery(models.Model):
    """One event on its way to one webhook. `entry` is the audit entry that it tells of; a test has none."""

    class State(models.TextChoices):
        """Where it stands."""

        PENDING = "pending"
        DELIVERED = "delivered"
        FAILED = "failed"

    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    entry = models.PositiveBigIntegerField(null=True)
    event = models.CharField(max_length=64)
    body = models.TextField()
    state = models.CharField(max_length=9, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    status = models.PositiveIntegerField(null=True)
    error = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField()
    tried_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(name="delivery_once", fields=["webhook", "entry"])]
        indexes = [models.Index(name="delivery_by_webhook", fields=["webhook", "-id"])]

    def __str__(self) -> str:
        return f"{self.event} to {self.webhook_id}: {self.state}"
