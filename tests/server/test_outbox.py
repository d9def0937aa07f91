"""The outbox: order, pushing back, and why an old retained message never overtakes a new one."""

import pytest
from django.db import transaction

from fleet.apps.audit import selectors as audit_selectors
from fleet.apps.audit import services as audit
from fleet.apps.outbox import selectors, services
from tests.server.catalogue import NOW, later

pytestmark = pytest.mark.django_db


def enqueue(topic: str, payload: bytes = b"x", *, retain: bool = False) -> int:
    return services.enqueue(topic=topic, payload=payload, retain=retain, now=NOW)


def waiting(at_s: float = 0.0) -> list[tuple[str, bytes]]:
    return [(item.topic, item.payload) for item in services.claim_batch(limit=10, now=later(at_s))]


def test_claim_batch__unmarked__gives_the_same_again_in_order() -> None:
    enqueue("a")
    enqueue("b")
    assert waiting() == waiting() == [("a", b"x"), ("b", b"x")]
    services.mark_published(ids=[item.id for item in services.claim_batch(limit=1, now=NOW)])
    assert waiting() == [("b", b"x")]
    assert selectors.depth() == 1
    assert selectors.oldest_at() == NOW


def test_push_back__refused__holds_up_nobody_and_comes_again() -> None:
    first = enqueue("a")
    enqueue("b")
    services.push_back(message_id=first, attempts=0, now=NOW)
    assert waiting() == [("b", b"x")]
    assert waiting(1.0) == [("a", b"x"), ("b", b"x")]


def test_enqueue__retained_for_the_same_topic__replaces_the_one_that_waits() -> None:
    old = enqueue("plan", b"1", retain=True)
    services.push_back(message_id=old, attempts=3, now=NOW)
    enqueue("plan", b"2", retain=True)
    enqueue("poke", b"1")
    enqueue("poke", b"2")
    assert waiting(3600) == [("plan", b"2"), ("poke", b"1"), ("poke", b"2")]


def test_enqueue__transaction_rolls_back__sends_nothing() -> None:
    with transaction.atomic():
        enqueue("a")
        transaction.set_rollback(True)
    assert waiting() == []


def test_audit__entries__come_newest_first_and_by_subject() -> None:
    for number in range(3):
        audit.record(actor="ada", action="rollout.hold", subject=f"r-{number}", detail={"n": number}, now=NOW)
    newest = audit_selectors.entries(limit=2)
    assert [entry.subject for entry in newest] == ["r-2", "r-1"]
    assert [entry.subject for entry in audit_selectors.entries(before_id=newest[-1].id)] == ["r-0"]
    assert audit_selectors.entries(subject="r-1")[0].detail == {"n": 1}
