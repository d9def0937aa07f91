"""What `webhooks` tells others."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class WebhookRecord:
    """A webhook, without its secret. An empty `namespace` means everything."""

    id: int
    namespace: str
    url: str
    events: tuple[str, ...]
    created_by: str
    created_at: datetime


@dataclass(frozen=True)
class DeliveryRecord:
    """One event on its way: how often it was tried, what the last answer was."""

    id: int
    event: str
    state: str
    attempts: int
    status: int | None
    error: str
    created_at: datetime
    tried_at: datetime | None
