"""Other people's consent to a rollout, and its start once there is enough of it.

Approving and starting are two steps: a rollout with enough approvals is scheduled, and starts at once or as soon as what
is in its way (another rollout of the model) has ended. The conductor tries again at each tick.
"""

from collections.abc import Callable
from datetime import datetime

from django.db import transaction

from fleet.apps import consent
from fleet.apps.rollouts import moves
from fleet.apps.rollouts.decisions import Reason
from fleet.apps.rollouts.models import Decision
from fleet.apps.rollouts.records import RolloutRecord
from fleet.apps.rollouts.rows import locked, unlocked
from fleet.apps.rollouts.selectors import rollout_record
from fleet.apps.rollouts.snapshots import quiet_until
from fleet.apps.rollouts.starting import ask_for_count, begin_counted, in_the_way, is_large
from fleet.domain.approvals import Actor
from fleet.domain.errors import InvalidInputError
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import RolloutEvent, RolloutState, next_state


def approve(
    *,
    rollout_id: str,
    actor: str,
    identity: str,
    reason: str,
    now: datetime,
    if_revision: int | None = None,
    is_emergency: bool = False,
) -> RolloutRecord:
    """Record one person's consent; the last one that is needed starts the rollout if nothing is in its way.

    `identity` is of the person behind `actor`: one who started it, or has approved it, does not count again under
    another name. With `is_emergency` this one is enough, whoever gives it: the caller has made sure that they may do
    everything. Raises ConflictError for a rollout that does not wait, ForbiddenError for the one who started it.
    """
    with transaction.atomic():
        row = locked(rollout_id, if_revision)
        next_state(RolloutState(row.state), RolloutEvent.APPROVE)
        outcome = consent.give(row, by=Actor(actor, identity), reason=reason, is_emergency=is_emergency, now=now)
        row.ignores_quiet_hours |= is_emergency
        evidence = {"reason": reason.strip(), "given": outcome.given, "required": outcome.required}
        sentence = f"{outcome.sentence}: {reason.strip()}"
        said = Reason(actor, sentence, evidence={**evidence, "emergency": is_emergency})
        moves.consent(row, said, now, is_enough=outcome.missing == 0)
    if outcome.missing == 0:
        begin_scheduled(rollout_id=rollout_id, now=now)
    return rollout_record(unlocked(rollout_id))


def override_quiet(
    *, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None
) -> RolloutRecord:
    """Let it start and go on in its namespace's quiet hours, now and later; on record, with the reason."""
    if not reason.strip():
        raise InvalidInputError("reason_missing", "expected a reason for going on in quiet hours, got none")
    with transaction.atomic():
        row = locked(rollout_id, if_revision)
        moves.override_quiet(row, Reason(actor, f"goes on in quiet hours: {reason.strip()}"), now)
    if row.state == RolloutState.SCHEDULED:
        begin_scheduled(rollout_id=rollout_id, now=now)
    return rollout_record(unlocked(rollout_id))


def begin_scheduled(*, rollout_id: str, now: datetime, require: Callable[[], None] = lambda: None) -> Decision | None:
    """Start a scheduled rollout unless something is in its way or its moment has not come; None if it goes on waiting.

    What was approved is what starts: one whose baseline is not what it was approved against is cancelled, as is one
    that cannot work any more. A large fleet is counted by a job, which begins it then. `require` raises, inside the
    transaction, if the caller may not.
    """
    row = unlocked(rollout_id)
    policy = RolloutPolicy.parse(row.policy)
    if row.state != RolloutState.SCHEDULED or policy.schedule.opens_at(now) is not None:
        return None
    if quiet_until(row, now) is not None:
        return None
    if in_the_way(row.model_id, policy) is not None:
        return None
    if is_large(row.model_id):
        ask_for_count(row, 0, now)
        return None
    return begin_counted(row, policy, now, require)
