"""Reads rollouts, their phases, decisions and gates."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Count, Q

from device_client.wire.bucketing import BUCKETS
from fleet.apps import consent
from fleet.apps.assignments import selectors as assignments
from fleet.apps.rollouts import looks
from fleet.apps.rollouts.models import Decision, PhaseRun, Rollout
from fleet.apps.rollouts.records import DecisionRecord, GatesRecord, PhaseRecord, RolloutRecord
from fleet.apps.rollouts.snapshots import baseline_version_id, offers_so_far, phase_counts
from fleet.domain.conductor import Action
from fleet.domain.errors import NotFoundError
from fleet.domain.findings import Finding
from fleet.domain.phases import parse_phases
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import CONDUCTED, OFFERING, RolloutState
from fleet.domain.verdicts import OfferCount, PhaseCounts, Verdict

OFFERS_COUNTED: Final = 20_000  # for a page


def rollout(rollout_id: str) -> RolloutRecord:
    """One rollout; raises `NotFoundError`."""
    return rollout_record(_row(rollout_id))


def rollouts(
    *, model: str = "", version: str = "", states: Sequence[str] = (), limit: int = 100, after: str = ""
) -> tuple[RolloutRecord, ...]:
    """The newest first. `after` is the id of the last rollout of the page before."""
    rows = Rollout.objects.select_related("version", "against").prefetch_related("approvals")
    if model:
        rows = rows.filter(model_id=model)
    if version:
        rows = rows.filter(version__label=version)
    if states:
        rows = rows.filter(state__in=list(states))
    last = Rollout.objects.filter(pk=after).first() if after else None
    if last is not None:
        rows = rows.filter(Q(created_at__lt=last.created_at) | Q(created_at=last.created_at, pk__lt=last.pk))
    return tuple(rollout_record(row) for row in rows[:limit])


def phases(rollout_id: str) -> tuple[PhaseRecord, ...]:
    """The phases that have begun, in order."""
    return tuple(
        PhaseRecord(
            index=row.index,
            share=row.share,
            counts=phase_counts(row),
            verdict=Verdict(row.judgement["verdict"]) if row.judgement.get("verdict") else None,
            judgement=row.judgement,
            started_at=row.started_at,
            ended_at=row.ended_at,
            is_counted=row.counted_at is not None,
        )
        for row in PhaseRun.objects.filter(rollout_id=rollout_id)
    )


def decisions(rollout_id: str, *, limit: int = 100, after: int | None = None) -> tuple[DecisionRecord, ...]:
    """What was decided about one rollout, the newest first; `after` continues below that decision's id."""
    rows = Decision.objects.filter(rollout_id=rollout_id).select_related("rollout__version").order_by("-id")
    if after is not None:
        rows = rows.filter(pk__lt=after)
    return tuple(decision_record(row) for row in rows[:limit])


def decision(rollout_id: str, decision_id: int) -> DecisionRecord:
    """One decision with its evidence; raises `NotFoundError`."""
    row = Decision.objects.filter(rollout_id=rollout_id, pk=decision_id).select_related("rollout__version").first()
    if row is None:
        raise NotFoundError("decision_unknown", f"no decision {decision_id} of rollout {rollout_id!r:.40}")
    return decision_record(row)


def recent_decisions(*, limit: int = 20, model: str = "") -> tuple[DecisionRecord, ...]:
    """The newest decisions about all rollouts."""
    rows = Decision.objects.select_related("rollout__version").order_by("-at", "-id")
    if model:
        rows = rows.filter(rollout__model_id=model)
    return tuple(decision_record(row) for row in rows[:limit])


def count_by_state() -> Mapping[str, int]:
    """How many rollouts are in each state."""
    rows = Rollout.objects.order_by().values_list("state").annotate(n=Count("pk"))
    found = dict(rows)
    return {state.value: found.get(state.value, 0) for state in RolloutState}


def gates(rollout_id: str, *, now: datetime) -> GatesRecord:
    """The gates as the conductor last saw them; of a rollout that has ended, as they stood when its last phase did."""
    row = _row(rollout_id)
    policy = RolloutPolicy.parse(row.policy)
    run = PhaseRun.objects.filter(rollout=row, index=row.phase).first()
    counts = PhaseCounts() if run is None else phase_counts(run)
    if run is None or RolloutState(row.state) not in OFFERING:
        return _frozen(row, policy, {} if run is None else run.judgement, counts, now)
    seen = looks.last(row, policy, now)
    phase, began_at = policy.phases[row.phase], row.phase_started_at or row.created_at
    return GatesRecord(
        rollout=row.pk,
        phase=row.phase,
        at=seen.at,
        frozen=False,
        verdict=Verdict(seen.judgement["verdict"]),
        action=seen.action,
        sentence=seen.sentence,
        gates=tuple(seen.judgement["gates"]),
        notes=tuple(seen.judgement["notes"]),
        counts=counts,
        offers=seen.offers,
        earliest_at=began_at + timedelta(seconds=phase.min_duration_s),
        deadline_at=(row.clock_from_at or began_at) + timedelta(seconds=phase.deadline_s),
    )


def baseline(model: str) -> int | None:
    """The version that a model's untreated devices run; None before the first."""
    return baseline_version_id(model)


def conducted() -> tuple[str, ...]:
    """The ids of the rollouts that the conductor looks at, the oldest first."""
    rows = Rollout.objects.filter(state__in=[state.value for state in CONDUCTED]).order_by("created_at", "pk")
    return tuple(rows.values_list("pk", flat=True))


def rollout_record(row: Rollout, findings: tuple[Finding, ...] = ()) -> RolloutRecord:
    """A row as a value. For this app only."""
    phases = parse_phases(row.policy["phases"])
    phase = min(row.phase, len(phases) - 1)
    return RolloutRecord(
        id=row.pk,
        model=row.model_id,
        version=row.version.label,
        version_id=row.version_id,
        against=None if row.against is None else row.against.label,
        rule_id=row.rule_id,
        state=RolloutState(row.state),
        seed=row.seed,
        policy=row.policy,
        phase=row.phase,
        phases=len(phases),
        share=row.reaches[phase]["treated_end"] / BUCKETS if phase < len(row.reaches) else phases[phase].share,
        reach=phases[phase].words,
        phase_started_at=row.phase_started_at,
        revision=row.revision,
        because=row.because,
        created_by=row.created_by,
        created_at=row.created_at,
        started_at=row.started_at,
        reverting_since_at=row.reverting_since_at,
        ended_at=row.ended_at,
        findings=findings,
        approvals_required=row.approvals_required,
        approvals=consent.given(row),
        ignores_quiet_hours=row.ignores_quiet_hours,
        steps_left=RolloutPolicy.parse(row.policy).revert.steps - row.revert_step
        if row.state == RolloutState.REVERTING
        else 0,
    )


def decision_record(row: Decision) -> DecisionRecord:
    """A row as a value. For this app only."""
    return DecisionRecord(
        id=row.pk,
        rollout=row.rollout_id,
        model=row.rollout.model_id,
        version=row.rollout.version.label,
        phase=row.phase,
        at=row.at,
        action=row.action,
        verdict=row.verdict,
        actor=row.actor,
        sentence=row.sentence,
        evidence=row.evidence,
    )


def _row(rollout_id: str) -> Rollout:
    row = Rollout.objects.select_related("version", "against").filter(pk=rollout_id).first()
    if row is None:
        raise NotFoundError("rollout_unknown", f"no rollout {rollout_id!r:.40}")
    return row


def _frozen(
    row: Rollout, policy: RolloutPolicy, judgement: Mapping[str, object], counts: PhaseCounts, now: datetime
) -> GatesRecord:
    verdict, found, notes = judgement.get("verdict"), judgement.get("gates"), judgement.get("notes")
    return GatesRecord(
        rollout=row.pk,
        phase=row.phase,
        at=row.ended_at or row.reverting_since_at or now,
        frozen=True,
        verdict=Verdict(verdict) if isinstance(verdict, str) else Verdict.WAIT,
        action=Action.WAIT,
        sentence=row.because,
        gates=tuple(found) if isinstance(found, list) else (),
        notes=tuple(notes) if isinstance(notes, list) else (),
        counts=counts,
        offers=_offers(row, policy, now),
        earliest_at=None,
        deadline_at=None,
    )


def _offers(row: Rollout, policy: RolloutPolicy, now: datetime) -> tuple[OfferCount, ...]:
    """Of a rollout that has ended: as they are; of more than are counted for a page, as the conductor last saw them."""
    is_large = row.rule_id is not None and assignments.has_more_offers_than(OFFERS_COUNTED, rule_id=row.rule_id)
    last = looks.stored(row) if is_large else None
    return offers_so_far(row, policy, now) if last is None else last.offers
