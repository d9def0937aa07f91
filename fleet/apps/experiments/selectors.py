"""Reads experiments, their results, looks and decisions. Every function costs a constant number of queries."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from django.db.models import Q

from fleet.apps import consent
from fleet.apps.experiments.models import Decision, Experiment, Look
from fleet.apps.experiments.moves import found
from fleet.apps.experiments.records import ArmRecord, DecisionRecord, ExperimentRecord, LookRecord, ResultsRecord
from fleet.apps.experiments.snapshots import snapshot
from fleet.domain.experiment import ExperimentSpec, layout
from fleet.domain.experiment_analysis import analyse
from fleet.domain.experiment_decision import decide
from fleet.domain.experiment_findings import Facts
from fleet.domain.experiment_states import ExperimentState
from fleet.domain.plan import Finding

CONCLUDING = ("decide", "stop")  # the actions whose evidence is what the experiment has shown


def experiment(experiment_id: str) -> ExperimentRecord:
    """One experiment; raises `NotFoundError`."""
    return experiment_record(found(experiment_id))


def experiments(
    *, model: str = "", states: Sequence[str] = (), limit: int = 100, after: str = ""
) -> tuple[ExperimentRecord, ...]:
    """The newest first. `after` is the id of the last experiment of the page before."""
    rows = Experiment.objects.prefetch_related("approvals")
    if model:
        rows = rows.filter(model_id=model)
    if states:
        rows = rows.filter(state__in=list(states))
    last = Experiment.objects.filter(pk=after).first() if after else None
    if last is not None:
        rows = rows.filter(Q(created_at__lt=last.created_at) | Q(created_at=last.created_at, pk__lt=last.pk))
    return tuple(experiment_record(row) for row in rows[:limit])


def results(experiment_id: str, *, now: datetime) -> ResultsRecord:
    """What it shows now; once it is decided or stopped, what it showed then."""
    row = found(experiment_id)
    spec = ExperimentSpec.parse(row.spec)
    seen = snapshot(row, spec, now)
    frozen = row.decisions.filter(action__in=CONCLUDING).first()
    if seen.state is not ExperimentState.RUNNING and frozen is not None:
        return _results(row, seen.facts, frozen.evidence, frozen.sentence, at=frozen.at, is_frozen=True)
    intent = decide(seen, now)
    evidence = analyse(spec, seen.facts).encode()
    return _results(row, seen.facts, evidence, intent.sentence, at=now, is_frozen=False)


def looks(experiment_id: str) -> tuple[LookRecord, ...]:
    """How its intervals went over time, the oldest first."""
    return tuple(LookRecord(row.at, tuple(row.intervals)) for row in Look.objects.filter(experiment_id=experiment_id))


def decisions(experiment_id: str, *, limit: int = 100, after: int | None = None) -> tuple[DecisionRecord, ...]:
    """What was decided about it, the newest first; `after` continues below that decision's id."""
    rows = Decision.objects.filter(experiment_id=experiment_id).select_related("experiment").order_by("-id")
    if after is not None:
        rows = rows.filter(pk__lt=after)
    return tuple(decision_record(row) for row in rows[:limit])


def under_way() -> tuple[str, ...]:
    """The ids of the experiments that the conductor looks at, the oldest first: scheduled, running, or promoted and not
    released.
    """
    rows = Experiment.objects.filter(
        Q(state__in=[ExperimentState.RUNNING.value, ExperimentState.SCHEDULED.value])
        | Q(state=ExperimentState.PROMOTED.value, released_at=None)
    )
    return tuple(rows.order_by("created_at", "pk").values_list("pk", flat=True))


def experiment_record(row: Experiment, findings: tuple[Finding, ...] = ()) -> ExperimentRecord:
    """A row as a value. For this app only."""
    return ExperimentRecord(
        id=row.pk,
        model=row.model_id,
        state=ExperimentState(row.state),
        seed=row.seed,
        spec=row.spec,
        verdict=row.verdict,
        winner=row.winner,
        because=row.because,
        rule_id=row.rule_id,
        rollout=row.rollout_id,
        revision=row.revision,
        created_by=row.created_by,
        created_at=row.created_at,
        started_at=row.started_at,
        ends_at=row.ends_at,
        decided_at=row.decided_at,
        ended_at=row.ended_at,
        findings=findings,
        approvals_required=row.approvals_required,
        approvals=consent.given(row),
    )


def decision_record(row: Decision) -> DecisionRecord:
    """A row as a value. For this app only."""
    return DecisionRecord(
        id=row.pk,
        experiment=row.experiment_id,
        model=row.experiment.model_id,
        at=row.at,
        action=row.action,
        verdict=row.verdict,
        actor=row.actor,
        sentence=row.sentence,
        evidence=row.evidence,
    )


def _results(
    row: Experiment, facts: Facts, evidence: Mapping[str, object], sentence: str, *, at: datetime, is_frozen: bool
) -> ResultsRecord:
    comparisons, notes = evidence.get("comparisons"), evidence.get("notes")
    assigned, reporting = evidence.get("assigned"), evidence.get("reporting")
    return ResultsRecord(
        experiment=row.pk,
        at=at,
        frozen=is_frozen,
        verdict=row.verdict,
        winner=row.winner,
        sentence=sentence,
        arms=_arms(row, facts),
        assigned=assigned if isinstance(assigned, dict) else {},
        reporting=reporting if isinstance(reporting, dict) else {},
        comparisons=tuple(comparisons) if isinstance(comparisons, list) else (),
        notes=tuple(notes) if isinstance(notes, list) else (),
    )


def _arms(row: Experiment, facts: Facts) -> tuple[ArmRecord, ...]:
    spec = ExperimentSpec.parse(row.spec)
    found = []
    for arm, buckets in layout(spec):
        offers = [item for item in facts.offers if item.arm == arm.name]
        found.append(
            ArmRecord(
                name=arm.name,
                version=arm.version,
                is_control=arm.name == spec.control,
                start=buckets.start,
                end=buckets.end,
                planned=sum(count for (name, _), count in facts.planned.items() if name == arm.name),
                offered=sum(item.offered for item in offers),
                committed=sum(item.committed for item in offers),
                failed=sum(item.failed for item in offers),
                rolled_back=sum(item.rolled_back for item in offers),
                dropped=row.dropped.get(arm.name, ""),
            )
        )
    return tuple(found)
