"""Plans, starts and steers rollouts, and lets the conductor look at them.

Everything that costs time in proportion to the fleet (counting a population) happens before a transaction; what an
operator or the conductor decides is then a constant number of statements in one.
"""

from datetime import datetime, timedelta
from functools import partial

from django.db import transaction
from django.db.models import F

from fleet.apps.rollouts import leadership, looks, moves
from fleet.apps.rollouts.approvals import approve, begin_scheduled, override_quiet
from fleet.apps.rollouts.decisions import CONDUCTOR, Reason
from fleet.apps.rollouts.models import Decision, Rollout
from fleet.apps.rollouts.records import DecisionRecord, RolloutRecord, TickRecord
from fleet.apps.rollouts.rows import locked, unlocked
from fleet.apps.rollouts.selectors import conducted, decision_record, rollout_record
from fleet.apps.rollouts.snapshots import snapshot
from fleet.apps.rollouts.starting import (
    JOB_KIND,
    ask_for_count,
    count_at_once,
    count_population,
    plan,
    start,
)
from fleet.apps.telemetry.pasts import PastCache
from fleet.domain.conductor import Action, Intent, decide
from fleet.domain.errors import ConflictError
from fleet.domain.failures import Failure
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import OFFERING, RolloutState
from fleet.domain.verdicts import PhaseCounts

__all__ = [
    "JOB_KIND",
    "advance",
    "approve",
    "cancel",
    "count_population",
    "hold",
    "override_quiet",
    "plan",
    "resign",
    "resume",
    "revert",
    "start",
    "tick",
]

# ---------------------------------------------------------------- a person's word


def hold(*, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None) -> RolloutRecord:
    """Offer nothing new; devices that run the version keep it."""
    with transaction.atomic():
        row = locked(rollout_id, if_revision)
        moves.hold(row, Reason(actor, reason or f"held by {actor}"), now)
        return rollout_record(row)


def resume(*, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None) -> RolloutRecord:
    """Go on after a hold; the phase's deadline counts from now."""
    with transaction.atomic():
        row = locked(rollout_id, if_revision)
        moves.resume(row, Reason(actor, reason or f"resumed by {actor}"), now)
        return rollout_record(row)


def advance(
    *, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None
) -> RolloutRecord:
    """Go to the next phase, or complete after the last, whatever the gates say; what they said is kept."""
    row = unlocked(rollout_id)
    to_phase = row.phase + 1
    policy = RolloutPolicy.parse(row.policy)
    is_last = to_phase >= len(policy.phases)
    counts = None if is_last else count_at_once(row, policy, to_phase, now)
    judged = looks.last(row, policy, now).judgement if RolloutState(row.state) in OFFERING else {}
    with transaction.atomic():
        row = locked(rollout_id, if_revision)
        if row.phase + 1 != to_phase:
            raise ConflictError("rollout_moved", f"expected phase {to_phase}, it is in phase {row.phase + 1} by now")
        spoken = Reason(actor, reason or f"advanced by {actor}")
        if row.state == RolloutState.HELD:
            moves.resume(row, spoken, now)
        if row.state == RolloutState.RUNNING and judged:
            spoken = Reason(actor, spoken.sentence, str(judged["verdict"]), judged)
        if is_last:
            moves.complete(row, spoken, now)
        else:
            _advance(row, policy, counts, spoken, now)
        return rollout_record(row)


def revert(*, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None) -> RolloutRecord:
    """Move the treated devices back to what they ran before; those of the steps that are left, if it goes back in steps."""
    with transaction.atomic():
        row = locked(rollout_id, if_revision)
        policy, spoken = RolloutPolicy.parse(row.policy), Reason(actor, reason or f"reverted by {actor}")
        (moves.revert_rest if row.state == RolloutState.REVERTING else moves.revert)(row, policy, spoken, now)
        return rollout_record(row)


def cancel(*, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None) -> RolloutRecord:
    """End it for good; what it treated falls back to the baseline."""
    with transaction.atomic():
        row = locked(rollout_id, if_revision)
        moves.cancel(row, Reason(actor, reason or f"cancelled by {actor}"), now)
        return rollout_record(row)


def _advance(
    row: Rollout, policy: RolloutPolicy, counts: PhaseCounts | None, reason: Reason, now: datetime
) -> Decision:
    decision = moves.advance(row, policy, counts, reason, now)
    if counts is None:
        ask_for_count(row, row.phase, now)
    return decision


# ---------------------------------------------------------------- the conductor


def tick(*, now: datetime, holder: str, jumped_s: float = 0.0, pasts: PastCache | None = None) -> TickRecord:
    """One look at every rollout under way, if `holder` leads: decide, then apply in one fenced transaction each.

    A rollout that cannot be judged stops no other; it is among the failures. `jumped_s` is by how much the server's clock
    went ahead of the time that has passed since the last look (negative: behind): phases move along with it, and signs of
    life are believed again only after a grace. `pasts` is what the last looks have read of the devices' pasts.
    """
    token = leadership.acquire(name=leadership.CONDUCTOR, holder=holder, now=now)
    if token is None:
        return TickRecord(is_leader=False)
    if jumped_s:
        _move_clocks(token, timedelta(seconds=jumped_s), now)
    jumped_at = leadership.jumped_at(name=leadership.CONDUCTOR)
    made: list[DecisionRecord] = []
    failures: list[Failure] = []
    known = PastCache() if pasts is None else pasts
    for rollout_id in conducted():
        try:
            decision = _conduct(rollout_id, token, now, jumped_at, known)
            if decision is not None:
                made.append(decision)
        except Exception as error:  # noqa: BLE001 - one rollout that cannot be judged must not leave the others unwatched
            failures.append(Failure(rollout_id, error))
    return TickRecord(True, tuple(made), tuple(failures))


def resign(*, now: datetime, holder: str) -> None:
    """Give up leadership at once, so that another conductor need not wait for the lease to end."""
    leadership.release(name=leadership.CONDUCTOR, holder=holder, now=now)


def _move_clocks(token: int, jump: timedelta, now: datetime) -> None:
    """What was timed by the clock before it jumped is timed by the clock as it is now."""
    with transaction.atomic():
        leadership.require(name=leadership.CONDUCTOR, token=token, now=now)
        leadership.note_jump(name=leadership.CONDUCTOR, now=now)
        for column in ("phase_started_at", "clock_from_at", "reverting_since_at"):
            rows = Rollout.objects.filter(pk__in=conducted(), **{f"{column}__isnull": False})
            rows.update(**{column: F(column) + jump})


def _conduct(
    rollout_id: str, token: int, now: datetime, jumped_at: datetime | None, pasts: PastCache
) -> DecisionRecord | None:
    row = unlocked(rollout_id)
    policy = RolloutPolicy.parse(row.policy)
    seen = snapshot(row, policy, now, pasts=pasts, jumped_at=jumped_at)
    intent = decide(seen, now)
    if not seen.is_counted and row.state in OFFERING:
        ask_for_count(row, row.phase, now)
    if row.state in OFFERING:
        looks.store(row, looks.look(seen, intent, now))
    if intent.action is Action.WAIT:
        return None
    if intent.action is Action.START:
        begun = begin_scheduled(rollout_id=rollout_id, now=now, require=partial(_require_lead, token, now))
        return None if begun is None else decision_record(begun)
    counts = None if intent.to_phase is None else count_at_once(row, policy, intent.to_phase, now)
    with transaction.atomic():
        leadership.require(name=leadership.CONDUCTOR, token=token, now=now)
        held = locked(rollout_id, row.revision)
        return decision_record(_apply(held, policy, intent, counts, now))


def _require_lead(token: int, now: datetime) -> None:
    leadership.require(name=leadership.CONDUCTOR, token=token, now=now)


def _apply(row: Rollout, policy: RolloutPolicy, intent: Intent, counts: PhaseCounts | None, now: datetime) -> Decision:
    verdict = "" if intent.verdict is None else intent.verdict.value
    reason = Reason(CONDUCTOR, intent.sentence, verdict, intent.evidence)
    if intent.action is Action.ADVANCE:
        return _advance(row, policy, counts, reason, now)
    if intent.action is Action.REVERT:
        return moves.revert(row, policy, reason, now)
    if intent.to_step is not None:
        return moves.revert_step(row, policy, intent.to_step, reason, now)
    move = {
        Action.COMPLETE: moves.complete,
        Action.HOLD: moves.hold,
        Action.FINISH_REVERT: moves.finish_revert,
    }[intent.action]
    return move(row, reason, now)
