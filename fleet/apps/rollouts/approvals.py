"""Other people's consent to a rollout, and its start once there is enough of it.

Approving and starting are two steps: a rollout with enough approvals is scheduled, and starts at once or as soon as what
is in its way (another rollout of the model) has ended. The conductor tries again at each tick.
"""

from datetime import datetime
from typing import Final

from django.db import transaction

from fleet.apps.assignments import selectors as assignments
from fleet.apps.rollouts import moves
from fleet.apps.rollouts.models import Decision, Rollout
from fleet.apps.rollouts.moves import ACTOR, Reason
from fleet.apps.rollouts.records import RolloutRecord
from fleet.apps.rollouts.rows import locked, unlocked
from fleet.apps.rollouts.selectors import rollout_record
from fleet.apps.rollouts.snapshots import baseline_version_id
from fleet.apps.rollouts.starting import ask_for_count, begin_counted, count_at_once
from fleet.domain import approvals
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import OFFERING, RolloutEvent, RolloutState, next_state

BASELINE_CHANGED: Final = "the baseline is not the version that it was approved against: start it again"


def approve(
    *,
    rollout_id: str,
    actor: str,
    reason: str,
    now: datetime,
    if_revision: int | None = None,
    is_emergency: bool = False,
) -> RolloutRecord:
    """Record one person's consent; the last one that is needed starts the rollout if nothing is in its way.

    With `is_emergency` this one is enough, whoever gives it: the caller has made sure that they may do everything.
    Raises ConflictError for a rollout that does not wait, ForbiddenError for the one who started it.
    """
    with transaction.atomic():
        row = locked(rollout_id, if_revision)
        next_state(RolloutState(row.state), RolloutEvent.APPROVE)
        given_by = frozenset(row.approvals.values_list("actor", flat=True))
        waiting = approvals.Waiting(row.created_by, row.approvals_required, given_by)
        outcome = approvals.approve(waiting, actor=actor, reason=reason, is_emergency=is_emergency)
        row.approvals.create(actor=actor, reason=reason.strip(), is_emergency=is_emergency, at=now)
        evidence = {"reason": reason.strip(), "given": outcome.given, "required": outcome.required}
        sentence = f"{outcome.sentence}: {reason.strip()}"
        said = Reason(actor, sentence, evidence={**evidence, "emergency": is_emergency})
        moves.consent(row, said, now, is_enough=outcome.missing == 0)
    if outcome.missing == 0:
        begin_approved(rollout_id=rollout_id, now=now)
    return rollout_record(unlocked(rollout_id))


def begin_approved(*, rollout_id: str, now: datetime) -> Decision | None:
    """Start an approved rollout unless another one or an experiment moves its model; None if it goes on waiting.

    What was approved is what starts: one whose baseline is not what it was approved against is cancelled, as is one
    that cannot work any more. A large fleet is counted by a job, which begins it then.
    """
    row = unlocked(rollout_id)
    if row.state != RolloutState.SCHEDULED or _is_busy(row.model_id):
        return None
    policy = RolloutPolicy.parse(row.policy)
    if baseline_version_id(row.model_id) != row.against_id:
        with transaction.atomic():
            return moves.cancel(locked(rollout_id, row.revision), Reason(ACTOR, BASELINE_CHANGED), now)
    if count_at_once(row, policy, 0, now) is None:
        ask_for_count(row, 0, now)
        return None
    begin_counted(row, policy, now)
    return Decision.objects.filter(rollout_id=rollout_id).select_related("rollout__version").order_by("-pk").first()


def _is_busy(model: str) -> bool:
    """Whether something else moves devices of this model, or nothing may."""
    return bool(assignments.stop_of(model) or assignments.running_experiment(model)) or (
        Rollout.objects.filter(model_id=model, state__in=OFFERING).exists()
    )
