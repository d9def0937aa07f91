"""Reads how much waits for the publisher."""

from datetime import datetime

from django.db.models import Min

from fleet.apps.outbox.models import Message


def depth() -> int:
    """How many messages wait."""
    return Message.objects.count()


def oldest_at() -> datetime | None:
    """When the oldest waiting message was written, or None if none waits."""
    oldest: datetime | None = Message.objects.aggregate(at=Min("created_at"))["at"]
    return oldest
