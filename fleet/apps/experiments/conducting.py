"""Lets the conductor look at the experiments under way: reads, decides by the domain, applies in one fenced transaction."""

from datetime import datetime, timedelta
from functools import partial
from typing import Final

from django.db import transaction
from django.db.models import F

from fleet.apps.assignments import services as assignments
from fleet.apps.experiments import moves
from fleet.apps.experiments.models import Decision, Experiment, Look
from fleet.apps.experiments.records import DecisionRecord, TickRecord
from fleet.apps.experiments.selectors import decision_record, under_way
from fleet.apps.experiments.snapshots import snapshot
from fleet.apps.experiments.starting import begin_scheduled
from fleet.apps.rollouts import leadership
from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.rollouts.decisions import CONDUCTOR, Reason
from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_decision import Action, Intent, Snapshot, decide
from fleet.domain.experiment_states import ExperimentEvent, ExperimentState, next_state
from fleet.domain.facts import RuleState
from fleet.domain.failures import Failure
from fleet.domain.rollout_states import RolloutState
from fleet.domain.strata import ALL_CLASSES

LOOKS: Final = 200  # stored over the planned duration, for the picture
MIN_LOOK_EVERY_S: Final = 1.0
# States of the winner's rollout in which devices need not be held to the experiment's arms any more.
_TAKEN_OVER: Final = frozenset(
    {RolloutState.COMPLETED, RolloutState.REVERTING, RolloutState.REVERTED, RolloutState.CANCELLED}
)


def tick(*, now: datetime, holder: str, jumped_s: float = 0.0) -> TickRecord:
    """One look at every experiment under way, if `holder` leads; one fenced transaction for each that moves.

    An experiment that cannot be judged stops no other; it is among the failures. `jumped_s` is by how much the server's
    clock went ahead of the time that has passed: what runs begins and ends as much later, so that a jump ends nothing.
    """
    token = leadership.acquire(name=leadership.CONDUCTOR, holder=holder, now=now)
    if token is not None and jumped_s:
        _move_clocks(token, timedelta(seconds=jumped_s), now)
    made: list[DecisionRecord] = []
    failures: list[Failure] = []
    for experiment_id in () if token is None else under_way():
        try:
            decision = _conduct(experiment_id, token or 0, now)
            if decision is not None:
                made.append(decision)
        except Exception as error:  # noqa: BLE001 - one experiment that cannot be judged must not leave the others unwatched
            failures.append(Failure(experiment_id, error))
    return TickRecord(tuple(made), tuple(failures))


def _move_clocks(token: int, jump: timedelta, now: datetime) -> None:
    with transaction.atomic():
        leadership.require(name=leadership.CONDUCTOR, token=token, now=now)
        rows = Experiment.objects.filter(state=ExperimentState.RUNNING.value)
        rows.update(started_at=F("started_at") + jump, ends_at=F("ends_at") + jump)


def _conduct(experiment_id: str, token: int, now: datetime) -> DecisionRecord | None:
    row = moves.found(experiment_id)
    if row.state == ExperimentState.PROMOTED:
        return _release(row, token, now)
    if row.state == ExperimentState.SCHEDULED:
        require = partial(leadership.require, name=leadership.CONDUCTOR, token=token, now=now)
        begun = begin_scheduled(experiment_id=experiment_id, now=now, require=require)
        return None if begun is None else decision_record(begun)
    spec = ExperimentSpec.parse(row.spec)
    seen = snapshot(row, spec, now)
    intent = decide(seen, now)
    if intent.action is Action.WAIT:
        _look(row, seen, intent, now)
        return None
    with transaction.atomic():
        leadership.require(name=leadership.CONDUCTOR, token=token, now=now)
        locked = moves.locked(experiment_id, row.revision)
        _keep(locked, intent, now)
        return decision_record(_apply(locked, intent, now))


def _apply(row: Experiment, intent: Intent, now: datetime) -> Decision:
    verdict = "" if intent.verdict is None else intent.verdict.value
    reason = Reason(CONDUCTOR, intent.sentence, verdict, intent.evidence)
    if intent.action is Action.STOP:
        row.verdict, row.decided_at = verdict, now
        return moves.stop(row, reason, now)
    if intent.action is Action.DROP:
        row.state = next_state(ExperimentState(row.state), ExperimentEvent.DROP).value
        row.dropped = {**row.dropped, **intent.dropped}
        if row.rule_id is not None:
            assignments.drop_arms(rule_id=row.rule_id, names=intent.dropped.keys(), now=now)
        return moves.conclude(row, "drop", reason, now)
    row.state = next_state(ExperimentState(row.state), ExperimentEvent.DECIDE).value
    row.verdict, row.winner, row.decided_at = verdict, intent.winner, now
    if row.rule_id is not None:
        assignments.set_rule(rule_id=row.rule_id, state=RuleState.HELD, now=now)
    return moves.conclude(row, "decide", reason, now)


def _release(row: Experiment, token: int, now: datetime) -> DecisionRecord | None:
    """The winner's rollout has ended or turns back: nobody is held to an arm any more."""
    rollout = None if row.rollout_id is None else rollouts.rollout(row.rollout_id)
    if rollout is not None and rollout.state not in _TAKEN_OVER:
        return None
    with transaction.atomic():
        leadership.require(name=leadership.CONDUCTOR, token=token, now=now)
        locked = moves.locked(row.pk, row.revision)
        moves.withdraw(locked, now)
        ended = "" if rollout is None else f": rollout {rollout.id} is {rollout.state.value}"
        reason = Reason(CONDUCTOR, f"the arms are dissolved{ended}")
        return decision_record(moves.conclude(locked, "release", reason, now, explains=False))


def _look(row: Experiment, seen: Snapshot, intent: Intent, now: datetime) -> None:
    """Keep the intervals now and then."""
    every_s = max(MIN_LOOK_EVERY_S, (seen.ends_at - seen.started_at).total_seconds() / LOOKS)
    last = Look.objects.filter(experiment_id=row.pk).order_by("-at").first()
    if last is None or now >= last.at + timedelta(seconds=every_s):
        _keep(row, intent, now)


def _keep(row: Experiment, intent: Intent, now: datetime) -> None:
    comparisons = intent.evidence.get("comparisons")
    shown = [
        {name: item[name] for name in ("arm", "metric", "role", "value", "lower", "upper")}
        for item in (comparisons if isinstance(comparisons, list) else [])
        if item["stratum"] == ALL_CLASSES and item["value"] is not None
    ]
    if shown:
        Look.objects.create(experiment_id=row.pk, at=now, intervals=shown)
