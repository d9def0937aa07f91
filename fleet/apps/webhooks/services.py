"""Webhooks: set up, told of what the audit log says, tried again until they answer.

Whatever is in the audit log can be told, and nothing else: an act and its entry are stored together, so nothing is told
that did not happen. `announce` looks for new entries, several times a second; each becomes one delivery for each webhook that asked, and one
job, which is repeated with rising pauses. A receiver may get a delivery twice (its id is the same) and late, not lost.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Final

from django.db import transaction
from django.db.models import F

from fleet.apps.additive import insert_new
from fleet.apps.audit import selectors as entries
from fleet.apps.audit import services as audit
from fleet.apps.audit.records import EntryRecord
from fleet.apps.jobs import services as jobs
from fleet.apps.webhooks import selectors
from fleet.apps.webhooks.models import Delivery, Webhook
from fleet.apps.webhooks.records import WebhookRecord
from fleet.domain import webhooks as domain
from fleet.domain.errors import ConflictError, NotFoundError, RefusedError, UnavailableError
from fleet.ports.webhook_sender import WebhookRefusedError, WebhookSender, WebhookUnreachableError

JOB_KIND: Final = "webhook"
MAX_ATTEMPTS: Final = 9  # pauses of 2 s, 4 s, ... 512 s: about a quarter of an hour
MAX_WEBHOOKS: Final = 100
BATCH: Final = 5_000
# Entries of transactions under way become visible late and out of order; so much is looked at again each time.
LOOK_BACK: Final = timedelta(minutes=2)
KEPT: Final = timedelta(days=30)


def create(*, url: str, events: Sequence[str], namespace: str, actor: str, now: datetime) -> tuple[WebhookRecord, str]:
    """Make a webhook that is told of everything from now on; returns it and its secret, which is shown this once."""
    parsed = domain.parse_events(events)
    domain.parse_url(url)
    if Webhook.objects.count() >= MAX_WEBHOOKS:
        raise ConflictError("webhooks_full", f"expected at most {MAX_WEBHOOKS} webhooks, got one more")
    secret = f"mfw_{secrets.token_urlsafe(32)}"
    with transaction.atomic():
        row = Webhook.objects.create(
            namespace=namespace,
            url=url,
            events=list(parsed),
            secret=secret,
            seen_entry=entries.newest_id(),
            created_by=actor,
            created_at=now,
        )
        detail = {"url": url, "events": list(parsed), "namespace": namespace}
        audit.record(actor=actor, action="webhook.create", subject=str(row.pk), detail=detail, now=now)
    return selectors.webhook_record(row), secret


def remove(*, webhook_id: int, actor: str, now: datetime) -> None:
    """Forget a webhook and what it was told."""
    with transaction.atomic():
        if not Webhook.objects.filter(pk=webhook_id).delete()[0]:
            raise NotFoundError("webhook_not_found", f"expected an existing webhook, got {webhook_id}")
        audit.record(actor=actor, action="webhook.remove", subject=str(webhook_id), detail={}, now=now)


def send_test(*, webhook_id: int, actor: str, now: datetime) -> int:
    """Queue a delivery that tells of nothing; returns its id."""
    selectors.webhook(webhook_id)
    body = _body(domain.TEST_EVENT, str(webhook_id), actor, {"message": "a test: nothing has happened"}, now)
    with transaction.atomic():
        row = Delivery.objects.create(webhook_id=webhook_id, event=domain.TEST_EVENT, body=body, created_at=now)
        _queue(row.pk, now)
    return row.pk


def replay(*, webhook_id: int, delivery_id: int, now: datetime) -> None:
    """Try a delivery once more, whatever became of it."""
    with transaction.atomic():
        found = Delivery.objects.filter(pk=delivery_id, webhook_id=webhook_id).update(state=Delivery.State.PENDING)
        if not found:
            raise NotFoundError("delivery_not_found", f"expected a delivery of webhook {webhook_id}, got {delivery_id}")
        _queue(delivery_id, now)


def announce(*, now: datetime) -> int:
    """Make deliveries of what the audit log says since the last look; returns how many are new. Safe to repeat."""
    return sum(_announce(row, now) for row in Webhook.objects.order_by("pk"))


def purge(*, now: datetime) -> None:
    """Forget deliveries that are a month old."""
    Delivery.objects.filter(created_at__lt=now - KEPT).exclude(state=Delivery.State.PENDING).delete()


def deliver(*, payload: Mapping[str, object], sender: WebhookSender, now: datetime) -> None:
    """The work of a job: one attempt. Raises what the worker takes as a reason to try again, or not to."""
    row = Delivery.objects.select_related("webhook").filter(pk=int(str(payload["delivery"]))).first()
    if row is None or row.state != Delivery.State.PENDING:
        return
    body = row.body.encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Modelfleet",
        "Modelfleet-Event": row.event,
        "Modelfleet-Delivery": str(row.pk),
        "Modelfleet-Signature": domain.signature(row.webhook.secret, body, int(now.timestamp())),
    }
    try:
        status = sender.post(row.webhook.url, headers, body)
    except WebhookRefusedError as error:
        _note(row, now, state=Delivery.State.FAILED, error=str(error))
        raise RefusedError("webhook_refused", str(error)) from error
    except WebhookUnreachableError as error:
        _note(row, now, state=_after_failure(row), error=str(error))
        raise UnavailableError("webhook_unreachable", str(error)) from error
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        _note(row, now, state=_after_failure(row), status=status, error=f"expected a status of 2xx, got {status}")
        raise UnavailableError("webhook_status", f"expected a status of 2xx, got {status}")
    _note(row, now, state=Delivery.State.DELIVERED, status=status)


def _announce(row: Webhook, now: datetime) -> int:
    found = entries.brief_after(entry_id=row.seen_entry, limit=BATCH)
    matching = {item.id for item in found if domain.matches(row.events, item.action)}
    # What was told is looked up first: nearly always there is nothing new, and reading keeps no writer waiting.
    told = Delivery.objects.filter(webhook=row, entry__in=matching).values_list("entry", flat=True) if matching else ()
    wanted = [item for item in entries.by_ids(matching.difference(told)) if _is_wanted(row, item)]
    settled = [item.id for item in found if item.at < now - LOOK_BACK]
    if not wanted and not settled:
        return 0
    rows = [
        Delivery(
            webhook=row,
            entry=item.id,
            event=item.action,
            body=_body(item.action, item.subject, item.actor, item.detail, item.at),
            created_at=now,
        )
        for item in wanted
    ]
    priority = _priority(row)
    with transaction.atomic():
        new = insert_new(rows, key=("webhook_id", "entry"))
        made = Delivery.objects.filter(webhook=row, entry__in=[entry for _, entry in new])
        for delivery_id in made.values_list("pk", flat=True):
            _queue(delivery_id, now, priority)
        if settled:
            Webhook.objects.filter(pk=row.pk).update(seen_entry=settled[-1])
    return len(new)


def _priority(row: Webhook) -> int:
    """Behind everybody else's while it does not answer: attempts at it take long, and are in vain."""
    return -row.deliveries.filter(state=Delivery.State.PENDING, attempts__gt=0).count()


def _is_wanted(row: Webhook, item: EntryRecord) -> bool:
    model = str(item.detail.get("model", ""))
    return not row.namespace or domain.concerns(row.namespace, item.action, item.subject, model)


def _body(event: str, subject: str, actor: str, detail: Mapping[str, object], at: datetime) -> str:
    told = {"event": event, "at": at.isoformat(), "actor": actor, "subject": subject, "detail": dict(detail)}
    return json.dumps(told, sort_keys=True)


def _queue(delivery_id: int, now: datetime, priority: int = 0) -> None:
    payload = {"delivery": delivery_id}
    jobs.enqueue(
        kind=JOB_KIND, key=str(delivery_id), payload=payload, now=now, max_attempts=MAX_ATTEMPTS, priority=priority
    )


def _after_failure(row: Delivery) -> Delivery.State:
    """Given up by the job together with the last attempt."""
    return Delivery.State.FAILED if row.attempts + 1 >= MAX_ATTEMPTS else Delivery.State.PENDING


def _note(row: Delivery, now: datetime, *, state: Delivery.State, status: int | None = None, error: str = "") -> None:
    Delivery.objects.filter(pk=row.pk).update(
        state=state, status=status, error=error[:300], attempts=F("attempts") + 1, tried_at=now
    )
