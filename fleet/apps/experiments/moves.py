"""The rows of an experiment: found, locked, changed together with its rule and its log. For this app only.

The caller has begun the transaction. Legality is `domain.experiment_states`'s; who decided, why, and on what evidence
comes in as a `Reason` and is stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from fleet.apps.assignments import services as assignments
from fleet.apps.audit import services as audit
from fleet.apps.experiments.models import Decision, Experiment
from fleet.domain.errors import ConflictError, NotFoundError
from fleet.domain.experiment_states import ExperimentEvent, ExperimentState, next_state
from fleet.domain.facts import RuleState

MAX_BECAUSE_CHARS: Final = 512
MAX_SENTENCE_CHARS: Final = 1_024


@dataclass(frozen=True)
class Reason:
    """Who decided, why, and what was seen."""

    actor: str
    sentence: str
    verdict: str = ""
    evidence: Mapping[str, object] = field(default_factory=dict)


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


def conclude(row: Experiment, action: str, reason: Reason, now: datetime) -> Decision:
    """Store the row, the audit's line and the decision."""
    row.revision += 1
    if action != "release":
        row.because = reason.sentence[:MAX_BECAUSE_CHARS]
    row.save()
    audit.record(
        actor=reason.actor,
        action=f"experiment.{action}",
        subject=row.pk,
        detail={
            "model": row.model_id,
            "state": row.state,
            "verdict": reason.verdict,
            "sentence": reason.sentence[:MAX_SENTENCE_CHARS],
        },
        now=now,
    )
    return Decision.objects.create(
        experiment=row,
        at=now,
        action=action,
        verdict=reason.verdict,
        actor=reason.actor,
        sentence=reason.sentence[:MAX_SENTENCE_CHARS],
        evidence=dict(reason.evidence),
    )


def found(experiment_id: str) -> Experiment:
    """One experiment; raises `NotFoundError`."""
    row = Experiment.objects.filter(pk=experiment_id).first()
    if row is None:
        raise NotFoundError("experiment_unknown", f"no experiment {experiment_id!r:.40}")
    return row


def locked(experiment_id: str, if_revision: int | None) -> Experiment:
    """The same for update; raises `ConflictError` if it is not at the revision that was seen."""
    row = Experiment.objects.select_for_update().filter(pk=experiment_id).first()
    if row is None:
        raise NotFoundError("experiment_unknown", f"no experiment {experiment_id!r:.40}")
    if if_revision is not None and row.revision != if_revision:
        raise moved(row, if_revision)
    return row


def moved(row: Experiment, if_revision: int) -> ConflictError:
    """The refusal of a word that was said about an older state."""
    return ConflictError("experiment_revision", f"expected revision {row.revision}, got {if_revision}: it has moved on")
