"""Reads webhooks and their deliveries."""

from fleet.apps.webhooks.models import Delivery, Webhook
from fleet.apps.webhooks.records import DeliveryRecord, WebhookRecord
from fleet.domain.errors import NotFoundError


def webhooks() -> tuple[WebhookRecord, ...]:
    """All of them, the oldest first."""
    return tuple(webhook_record(row) for row in Webhook.objects.order_by("pk"))


def webhook(webhook_id: int) -> WebhookRecord:
    """One; raises NotFoundError."""
    row = Webhook.objects.filter(pk=webhook_id).first()
    if row is None:
        raise NotFoundError("webhook_not_found", f"expected an existing webhook, got {webhook_id}")
    return webhook_record(row)


def deliveries(webhook_id: int, *, limit: int = 100, after: int | None = None) -> tuple[DeliveryRecord, ...]:
    """What one was told, the newest first; `after` continues below that delivery's id."""
    rows = Delivery.objects.filter(webhook_id=webhook_id).order_by("-pk")
    if after is not None:
        rows = rows.filter(pk__lt=after)
    return tuple(
        DeliveryRecord(row.pk, row.event, row.state, row.attempts, row.status, row.error, row.created_at, row.tried_at)
        for row in rows[:limit]
    )


def webhook_record(row: Webhook) -> WebhookRecord:
    """A row as a value. For this app only."""
    return WebhookRecord(row.pk, row.namespace, row.url, tuple(row.events), row.created_by, row.created_at)
