"""Creates, plans, starts, extends, promotes and stops experiments. The conductor's part is `conducting`.

What an operator decides is a constant number of statements in one transaction, with the evidence of that moment.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction

from device_client.wire.bucketing import BUCKETS
from fleet.apps.assignments import services as assignments
from fleet.apps.experiments import moves
from fleet.apps.experiments.records import ExperimentRecord
from fleet.apps.experiments.selectors import experiment_record
from fleet.apps.experiments.snapshots import snapshot
from fleet.apps.experiments.starting import JOB_KIND, approve, count_population, create, plan, start
from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.rollouts import services as rollout_services
from fleet.apps.rollouts.decisions import Reason
from fleet.domain.errors import ConflictError, InvalidInputError
from fleet.domain.experiment import ExperimentSpec, layout
from fleet.domain.experiment_analysis import analyse
from fleet.domain.experiment_decision import Verdict, may_extend
from fleet.domain.experiment_states import ExperimentEvent, ExperimentState, next_state
from fleet.domain.facts import RuleState
from fleet.domain.gate_policy import YEAR_S
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import TERMINAL, RolloutState

__all__ = ["JOB_KIND", "approve", "count_population", "create", "extend", "plan", "promote", "start", "stop"]

# Of a promotion that was cut short: its rollout may still wait for approval or for a count.
_PROMOTABLE: Final = tuple(state.value for state in RolloutState if state not in TERMINAL | {RolloutState.REVERTING})


# ---------------------------------------------------------------- a person's word


def extend(
    *, experiment_id: str, extra_s: float, actor: str, reason: str, now: datetime, if_revision: int | None = None
) -> ExperimentRecord:
    """More time, from the planned end or from now if that has passed. Refused once there is a winner."""
    if not 0 < extra_s <= YEAR_S:
        raise InvalidInputError("extend_invalid", f"expected more than 0 and at most {YEAR_S:g} s, got {extra_s:g}")
    with transaction.atomic():
        row = moves.locked(experiment_id, if_revision)
        state = ExperimentState(row.state)
        after = next_state(state, ExperimentEvent.EXTEND)
        if not may_extend(state, row.verdict):
            raise ConflictError(
                "experiment_decided", f"expected no verdict yet, it is {row.verdict}: promote or stop it"
            )
        if state is not after and row.rule_id is not None:
            assignments.set_rule(rule_id=row.rule_id, state=RuleState.RUNNING, now=now)
        row.state, row.verdict, row.decided_at = after.value, "", None
        row.ends_at = max(now, row.ends_at or now) + timedelta(seconds=extra_s)
        moves.conclude(row, "extend", Reason(actor, reason or f"extended by {extra_s:g} s by {actor}"), now)
        return experiment_record(row)


def stop(
    *, experiment_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None
) -> ExperimentRecord:
    """End it: every device falls back to the baseline. What it had shown is kept with the decision."""
    with transaction.atomic():
        row = moves.locked(experiment_id, if_revision)
        shown: Mapping[str, object] = {}
        if row.state == ExperimentState.RUNNING:
            spec = ExperimentSpec.parse(row.spec)
            shown = analyse(spec, snapshot(row, spec, now).facts).encode()
        elif row.state == ExperimentState.DECIDED:
            decided = row.decisions.filter(action="decide").first()
            shown = {} if decided is None else decided.evidence
        moves.stop(row, Reason(actor, reason or f"stopped by {actor}", evidence=shown), now)
        return experiment_record(row)


def promote(
    *,
    experiment_id: str,
    policy: object,
    actor: str,
    reason: str,
    now: datetime,
    identity: str = "",
    if_revision: int | None = None,
) -> ExperimentRecord:
    """Start a rollout of the winner, on the same seed and from its share; devices keep their arm until it reaches them.

    Phases of `policy` whose share is no more than the winner's are left out. A promotion that was cut short
    after its rollout had started goes on with that rollout.
    """
    row = moves.found(experiment_id)
    next_state(ExperimentState(row.state), ExperimentEvent.PROMOTE)
    if row.verdict != Verdict.SHIP.value:
        raise ConflictError("experiment_without_winner", f"expected a winner, the verdict is {row.verdict or 'open'}")
    moves.require_revision(row, if_revision)
    spec = ExperimentSpec.parse(row.spec)
    version, share = next(
        # Nobody runs the winner of a shadow yet, so that its rollout begins at the beginning.
        (arm.version, 0.0 if spec.shadow is not None else buckets.end / BUCKETS)
        for arm, buckets in layout(spec)
        if arm.name == row.winner
    )
    active = [
        item
        for item in rollouts.rollouts(model=row.model_id, version=version, states=_PROMOTABLE, limit=1)
        if item.seed == row.seed
    ]
    rollout = (
        active[0]
        if active
        else rollout_services.start(
            model=row.model_id,
            version=version,
            policy=_beyond(policy, share),
            seed=row.seed,
            actor=actor,
            identity=identity,
            now=now,
        )
    )
    with transaction.atomic():
        row = moves.locked(experiment_id, row.revision)
        row.state = next_state(ExperimentState(row.state), ExperimentEvent.PROMOTE).value
        row.rollout_id, row.ended_at = rollout.id, now
        sentence = reason or f"{row.winner} (version {version}) promoted by {actor}: rollout {rollout.id}"
        moves.conclude(row, "promote", Reason(actor, sentence, row.verdict), now)
        return experiment_record(row)


def _beyond(policy: object, share: float) -> dict[str, object]:
    """The policy without the phases that the experiment has already been.

    Those that name devices or count them have no share to compare, and stay: one that reaches winners only is soon over.
    """
    parsed = RolloutPolicy.parse(policy)
    later = tuple(phase for phase in parsed.phases if phase.share > share or not phase.share) or parsed.phases[-1:]
    encoded = parsed.encode()
    phases = encoded["phases"]
    kept = (
        [item for item, phase in zip(phases, parsed.phases, strict=True) if phase in later]
        if isinstance(phases, list)
        else []
    )
    return {**encoded, "preset": "", "phases": kept}
