"""Keeps messages until the publisher has handed them to the broker: at least once, in the order of writing.

`enqueue` belongs inside the transaction that decided the message. Reading and marking is for the one publisher; two of
them would only publish twice.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import F

from fleet.apps.outbox.models import Message
from fleet.apps.outbox.records import MessageRecord

RETRY_FIRST_S: Final = 1.0
RETRY_LONGEST_S: Final = 300.0


@transaction.atomic
def enqueue(*, topic: str, payload: bytes, retain: bool, now: datetime) -> int:
    """Store a message for `topic`; returns its id.

    A retained message replaces retained ones of the same topic that still wait: only the newest says what is true,
    and an older one that was pushed back must not be published after it.
    """
    if retain:
        Message.objects.filter(topic=topic, retain=True).delete()
    row = Message.objects.create(topic=topic, payload=payload, retain=retain, created_at=now, not_before_at=now)
    return row.pk


@transaction.atomic
def enqueue_each(*, topics: Sequence[str], payload: bytes, now: datetime) -> None:
    """Store the same message, not retained, for each of these topics."""
    Message.objects.bulk_create(
        [Message(topic=topic, payload=payload, retain=False, created_at=now, not_before_at=now) for topic in topics]
    )


def claim_batch(*, limit: int, now: datetime) -> tuple[MessageRecord, ...]:
    """The next messages that may be published now, oldest first. They stay stored until `mark_published`."""
    rows = Message.objects.filter(not_before_at__lte=now).order_by("id")[:limit]
    return tuple(MessageRecord(row.pk, row.topic, bytes(row.payload), row.retain, row.attempts) for row in rows)


def mark_published(*, ids: Sequence[int]) -> None:
    """Forget messages that the broker has acknowledged."""
    Message.objects.filter(pk__in=ids).delete()


def push_back(*, message_id: int, attempts: int, now: datetime) -> None:
    """Try this message again later, so that one that the broker refuses does not hold up the others."""
    delay_s = min(RETRY_LONGEST_S, RETRY_FIRST_S * 2.0 ** min(attempts, 16))
    Message.objects.filter(pk=message_id).update(
        attempts=F("attempts") + 1, not_before_at=now + timedelta(seconds=delay_s)
    )
