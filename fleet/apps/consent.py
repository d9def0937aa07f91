"""Consent that a rollout or an experiment waits for: how it is stored, added and read. Who may give it is `domain.approvals`'."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from django.db import models

from fleet.domain import approvals
from fleet.domain.approvals import Actor, Approved, Waiting


@dataclass(frozen=True)
class ApprovalRecord:
    """One person's consent. `is_emergency`: it alone was enough."""

    actor: str
    reason: str
    is_emergency: bool
    at: datetime


class Consent(models.Model):
    """One person's consent, and why. `is_emergency`: it alone was enough. What it is for, and that it is given once, the
    heirs say.
    """

    actor = models.CharField(max_length=128)
    identity = models.CharField(max_length=128, blank=True, default="")
    reason = models.CharField(max_length=500)
    is_emergency = models.BooleanField(default=False)
    at = models.DateTimeField()

    class Meta:
        abstract = True
        ordering = ["id"]


class Consented(Protocol):
    """A row that consent is given to; `approvals` are its `Consent`s."""

    created_by: str
    creator_identity: str
    approvals_required: int
    approvals: Any


def give(row: Consented, *, by: Actor, reason: str, is_emergency: bool, now: datetime) -> Approved:
    """Record one more consent and say what it leads to; in the caller's transaction, which has locked the row.

    Raises what `approvals.approve` raises.
    """
    given_by = tuple(Actor(*given) for given in row.approvals.values_list("actor", "identity"))
    waiting = Waiting(Actor(row.created_by, row.creator_identity), row.approvals_required, given_by)
    outcome = approvals.approve(waiting, by=by, reason=reason, is_emergency=is_emergency)
    row.approvals.create(actor=by.name, identity=by.identity, reason=reason.strip(), is_emergency=is_emergency, at=now)
    return outcome


def given(row: Consented) -> tuple[ApprovalRecord, ...]:
    """The consents so far. Most rows need none, and then nobody asks the database for them."""
    if not row.approvals_required:
        return ()
    return tuple(ApprovalRecord(item.actor, item.reason, item.is_emergency, item.at) for item in row.approvals.all())
