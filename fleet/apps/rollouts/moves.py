"""The moves of a rollout: each changes the locked row, its rule, its phases and its log together.

For this app only. The caller has begun the transaction and locked the row; legality is `domain.rollout_states`'s. Who
decided (a person or the conductor) and why comes in as a `Reason` and is stored with the evidence of that moment.
"""

from datetime import datetime
from typing import Any

from device_client.wire.bucketing import BUCKETS
from fleet.apps.assignments import services as assignments
from fleet.apps.registry import services as registry
from fleet.apps.rollouts import watch
from fleet.apps.rollouts.decisions import Reason, conclude
from fleet.apps.rollouts.models import Decision, PhaseRun, Rollout
from fleet.apps.rollouts.reaches import reach_of
from fleet.domain.errors import ConflictError
from fleet.domain.facts import RuleState
from fleet.domain.policy import RolloutPolicy
from fleet.domain.reach import Reach
from fleet.domain.rollout_states import RolloutEvent, RolloutState, next_state
from fleet.domain.verdicts import PhaseCounts


def schedule(row: Rollout, reason: Reason, now: datetime) -> Decision:
    """It will start by itself."""
    _transit(row, RolloutEvent.SCHEDULE)
    return _conclude(row, "schedule", reason, now)


def submit(row: Rollout, reason: Reason, now: datetime) -> Decision:
    """It waits for other people's consent; no device hears of it before."""
    _transit(row, RolloutEvent.SUBMIT)
    return _conclude(row, "submit", reason, now)


def consent(row: Rollout, reason: Reason, now: datetime, *, is_enough: bool) -> Decision:
    """Somebody approved. With enough approvals it is scheduled: it starts as soon as nothing is in its way."""
    if is_enough:
        _transit(row, RolloutEvent.APPROVE)
    return _conclude(row, "approve", reason, now)


def override_quiet(row: Rollout, reason: Reason, now: datetime) -> Decision:
    """Quiet hours do not keep it any more."""
    _transit(row, RolloutEvent.OVERRIDE_QUIET)
    row.ignores_quiet_hours = True
    return _conclude(row, "override_quiet", reason, now)


def begin(row: Rollout, policy: RolloutPolicy, counts: PhaseCounts, reason: Reason, now: datetime) -> Decision:
    """Start the first phase."""
    _transit(row, RolloutEvent.START)
    row.started_at = now
    _enter(row, policy, 0, counts, now)
    return _conclude(row, "start", reason, now)


def advance(row: Rollout, policy: RolloutPolicy, counts: PhaseCounts | None, reason: Reason, now: datetime) -> Decision:
    """Go on to the next phase. Without counts its population is still to be counted (`count`)."""
    _transit(row, RolloutEvent.ADVANCE)
    _close_phase(row, reason, now)
    _enter(row, policy, row.phase + 1, counts, now)
    return _conclude(row, "advance", reason, now)


def complete(row: Rollout, reason: Reason, now: datetime) -> Decision:
    """The version becomes the baseline."""
    _transit(row, RolloutEvent.COMPLETE)
    _close_phase(row, reason, now)
    row.ended_at = now
    assignments.set_rule(rule_id=_rule(row), state=RuleState.COMPLETED, now=now)
    return _conclude(row, "complete", reason, now)


def hold(row: Rollout, reason: Reason, now: datetime) -> Decision:
    """Offer nothing new; devices that run the version keep it."""
    _transit(row, RolloutEvent.HOLD)
    assignments.set_rule(rule_id=_rule(row), state=RuleState.HELD, now=now)
    return _conclude(row, "hold", reason, now)


def resume(row: Rollout, reason: Reason, now: datetime) -> Decision:
    """Offer again; the phase's deadline counts from now."""
    _transit(row, RolloutEvent.RESUME)
    row.clock_from_at = now
    assignments.set_rule(rule_id=_rule(row), state=RuleState.RUNNING, now=now)
    return _conclude(row, "resume", reason, now)


def revert(row: Rollout, policy: RolloutPolicy, reason: Reason, now: datetime) -> Decision:
    """Treated devices fall to the baseline: all of them now, or the first step's share if the policy has steps."""
    _transit(row, RolloutEvent.REVERT)
    _close_phase(row, reason, now)
    row.reverting_since_at = now
    _take_back(row, policy, 1, now)
    return _conclude(row, "revert", reason, now)


def revert_rest(row: Rollout, policy: RolloutPolicy, reason: Reason, now: datetime) -> Decision:
    """The steps that are left, at once. Raises `ConflictError` where none is."""
    _transit(row, RolloutEvent.REVERT)
    steps = policy.revert.steps
    if row.revert_step >= steps:
        raise ConflictError("rollout_state", f"expected steps that are left, got {row.revert_step} of {steps} taken")
    _take_back(row, policy, steps, now)
    return _conclude(row, "revert", reason, now)


def revert_step(row: Rollout, policy: RolloutPolicy, step: int, reason: Reason, now: datetime) -> Decision:
    """One step further. What made it revert stays the rollout's reason."""
    _transit(row, RolloutEvent.REVERT_STEP)
    _take_back(row, policy, step, now)
    return _conclude(row, "revert_step", reason, now, explains=False)


def _take_back(row: Rollout, policy: RolloutPolicy, step: int, now: datetime) -> None:
    """Shrink the range that keeps the version; named devices go with the first step. Nothing new is offered meanwhile."""
    row.revert_step = step
    left = policy.revert.left_after(step)
    if left == 0:
        assignments.set_rule(rule_id=_rule(row), state=RuleState.WITHDRAWN, now=now)
        return
    reach = reach_of(row, policy, row.phase)
    smaller = Reach(
        treated_end=round(reach.treated_end * left),
        control_start=BUCKETS,
        class_ends={name: round(end * left) for name, end in reach.class_ends.items()},
    )
    assignments.set_rule(rule_id=_rule(row), state=RuleState.HELD, reach=smaller, now=now)


def finish_revert(row: Rollout, reason: Reason, now: datetime) -> Decision:
    """The devices are back, or as many as could be waited for. What made it revert stays the rollout's reason."""
    _transit(row, RolloutEvent.FINISH_REVERT)
    row.ended_at = now
    return _conclude(row, "reverted", reason, now, explains=False)


def cancel(row: Rollout, reason: Reason, now: datetime) -> Decision:
    """End it for good; what it treated falls back to the baseline."""
    _transit(row, RolloutEvent.CANCEL)
    _close_phase(row, reason, now)
    row.ended_at = now
    if row.rule_id is not None:
        assignments.set_rule(rule_id=row.rule_id, state=RuleState.WITHDRAWN, now=now)
    return _conclude(row, "cancel", reason, now)


def _transit(row: Rollout, event: RolloutEvent) -> None:
    row.state = next_state(RolloutState(row.state), event).value


def count(row: Rollout, counts: PhaseCounts, now: datetime) -> None:
    """Note the population of the present phase; what was counted before stays."""
    PhaseRun.objects.filter(rollout=row, index=row.phase, counted_at=None).update(**_counted(counts, now))
    assignments.expect(rule_id=_rule(row), expected=counts.treated)


def _enter(row: Rollout, policy: RolloutPolicy, phase: int, counts: PhaseCounts | None, now: datetime) -> None:
    row.phase, row.phase_started_at, row.clock_from_at = phase, now, now
    PhaseRun.objects.create(
        rollout=row,
        index=phase,
        share=reach_of(row, policy, phase).treated_end / BUCKETS,
        started_at=now,
        **({} if counts is None else _counted(counts, now)),
    )
    assignments.set_rule(
        rule_id=_rule(row),
        state=RuleState.RUNNING,
        phase=phase,
        reach=reach_of(row, policy, phase),
        expected=0 if counts is None else counts.treated,
        now=now,
    )
    watch.ask(row, policy, phase, now)
    if policy.allow_delta:
        registry.request_plan(model=row.model_id, version_id=row.version_id, now=now)


def _counted(counts: PhaseCounts, now: datetime) -> dict[str, Any]:
    return {
        "eligible": counts.population,
        "treated": counts.treated,
        "control": counts.control,
        "classes": {
            item.hardware_class: {"treated": item.treated, "control": item.control, "population": item.population}
            for item in counts.classes
        },
        "counted_at": now,
    }


def _close_phase(row: Rollout, reason: Reason, now: datetime) -> None:
    """Freeze what the gates said when the phase ended."""
    PhaseRun.objects.filter(rollout=row, index=row.phase, ended_at=None).update(
        ended_at=now, judgement=dict(reason.evidence)
    )


def _conclude(row: Rollout, action: str, reason: Reason, now: datetime, *, explains: bool = True) -> Decision:
    fields = conclude(row, "rollout", action, reason, now, noted={"phase": row.phase}, explains=explains)
    row.save()
    return Decision.objects.create(rollout=row, phase=row.phase, **fields)


def _rule(row: Rollout) -> int:
    if row.rule_id is None:
        raise ConflictError("rollout_not_started", f"{row.pk} has no rule: it was never started")
    return row.rule_id
