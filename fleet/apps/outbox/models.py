"""Messages that wait for the publisher. Private to this app."""

from django.db import models


class Message(models.Model):
    """One MQTT publish, written in the transaction that decided it. Published rows are deleted."""

    topic = models.CharField(max_length=255)
    payload = models.BinaryField()
    retain = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    attempts = models.PositiveIntegerField(default=0)
    not_before_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(name="outbox_order", fields=["not_before_at", "id"])]

    def __str__(self) -> str:
        return self.topic
