"""The rows of an experiment: found, locked, changed together with its rule and its log. For this app only.

The caller has begun the transaction. Legality is `domain.experiment_states`'s; who decided, why, and on what evidence
comes in as a `Reason` and is stored.
"""

from datetime import datetime

from fleet.apps.assignments import services as assignments
from fleet.apps.experiments.models import Decision, Experiment
from fleet.apps.rollouts import decisions
from fleet.apps.rollouts.decisions import Reason
from fleet.domain.experiment_states import ExperimentEvent, ExperimentState, next_state
from fleet.domain.facts import RuleState


def stop(row: Experiment, reason: Reason, now: datetime) -> Decision:
    """End it: the rule is withdrawn and every device falls back to the baseline."""
    row.state = next_state(ExperimentState(row.state), ExperimentEvent.STOP).value
    row.ended_at = now
    withdraw(row, now)
    return conclude(row, "stop", reason, now)


def withdraw(row: Experiment, now: datetime) -> None:
    """Hold nobody to an arm any more."""
    row.released_at = now
    if row.rule_id is not None:
        assignments.set_rule(rule_id=row.rule_id, state=RuleState.WITHDRAWN, now=now)


def conclude(row: Experiment, action: str, reason: Reason, now: datetime, *, explains: bool = True) -> Decision:
    """Store the row, the audit's line and the decision."""
    noted = {"verdict": reason.verdict}
    fields = decisions.conclude(row, "experiment", action, reason, now, noted=noted, explains=explains)
    row.save()
    return Decision.objects.create(experiment=row, **fields)


def found(experiment_id: str) -> Experiment:
    """One experiment; raises `NotFoundError`."""
    return decisions.found(Experiment.objects.all(), "experiment", experiment_id)


def locked(experiment_id: str, if_revision: int | None) -> Experiment:
    """The same for update; raises `ConflictError` if it is not at the revision that was seen."""
    row = decisions.found(Experiment.objects.select_for_update(), "experiment", experiment_id)
    require_revision(row, if_revision)
    return row


def require_revision(row: Experiment, if_revision: int | None) -> None:
    """Raises `ConflictError` for a word that was said about an older state."""
    decisions.require_revision("experiment", row.revision, if_revision)
