"""Requests that must happen once: remembered by caller and key, with the answer that was given."""

from datetime import datetime, timedelta
from typing import Final

from django.db import IntegrityError, transaction

from fleet.apps.trust.models import IdempotentRequest
from fleet.apps.trust.records import StoredAnswer
from fleet.domain.errors import ConflictError

KEPT: Final = timedelta(days=2)
# A process that died in the middle leaves its request open; after this time the request may be tried again.
ABANDONED_AFTER: Final = timedelta(minutes=5)


def begin_request(*, actor: str, key: str, digest: str, now: datetime) -> StoredAnswer | None:
    """None: go on, and call `finish_request` or `forget_request`. Otherwise the answer that was given before.

    Raises ConflictError for the key of another request, and while the first one is still being answered.
    """
    IdempotentRequest.objects.filter(created_at__lt=now - KEPT).delete()
    IdempotentRequest.objects.filter(actor=actor, key=key, status=None, created_at__lt=now - ABANDONED_AFTER).delete()
    try:
        with transaction.atomic():
            IdempotentRequest.objects.create(actor=actor, key=key, digest=digest, created_at=now)
    except IntegrityError:
        row = IdempotentRequest.objects.filter(actor=actor, key=key).first()
        if row is None or row.status is None:
            raise ConflictError("request_in_progress", "expected an answered request, got one in progress") from None
        if row.digest != digest:
            raise ConflictError(
                "idempotency_key_reused", "expected the same request under this key, got another"
            ) from None
        return StoredAnswer(row.status, row.body)
    return None


def finish_request(*, actor: str, key: str, status: int, body: object) -> None:
    """Remember the answer."""
    IdempotentRequest.objects.filter(actor=actor, key=key).update(status=status, body=body)


def forget_request(*, actor: str, key: str) -> None:
    """The request was refused: its key is free again."""
    IdempotentRequest.objects.filter(actor=actor, key=key, status=None).delete()
