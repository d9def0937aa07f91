"""Drafts, dry runs and starts of experiments: who approves, whom the arms are for, and when it begins.

Counting a population costs time in proportion to the fleet, so it happens before a transaction, and on large fleets in a
job, as for rollouts. Where the namespace asks for approvals, an experiment waits for as many as a rollout would: it can
reach every device, so it must not be the way around. Who starts somebody else's draft approves it by that.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from django.db import IntegrityError, transaction

from fleet.apps import consent
from fleet.apps.assignments import selectors as assigned
from fleet.apps.assignments import services as assignments
from fleet.apps.assignments.records import ArmRecord
from fleet.apps.experiments import moves
from fleet.apps.experiments.models import Decision, Experiment
from fleet.apps.experiments.records import ExperimentRecord, PlanRecord
from fleet.apps.experiments.selectors import experiment_record
from fleet.apps.experiments.snapshots import PHASE
from fleet.apps.jobs import services as jobs
from fleet.apps.registry import selectors as registry
from fleet.apps.registry import services as registry_services
from fleet.apps.registry.records import VersionRecord, VersionState
from fleet.apps.rollouts import leadership, seeds
from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.rollouts.decisions import CONDUCTOR, Reason
from fleet.apps.rollouts.population import Population, population
from fleet.apps.rollouts.starting import is_large
from fleet.domain import experiment_plan
from fleet.domain.approvals import Actor
from fleet.domain.conductor import quiet
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError
from fleet.domain.experiment import ExperimentSpec, layout
from fleet.domain.experiment_states import OCCUPYING, ExperimentEvent, ExperimentState, next_state
from fleet.domain.facts import RuleState
from fleet.domain.rollout_states import RolloutState

JOB_KIND: Final = "experiment-population"
MOVED_ON: Final = "experiment_revision"
_OFFERING: Final = (RolloutState.RUNNING.value, RolloutState.HELD.value)


@dataclass(frozen=True)
class _Ready:
    """Everything that a start was refused or allowed by."""

    spec: ExperimentSpec
    versions: Mapping[str, VersionRecord]
    planned: experiment_plan.ExperimentPlan
    seed: str


# ---------------------------------------------------------------- plan and start


def create(*, model: str, spec: object, actor: str, now: datetime, identity: str = "") -> ExperimentRecord:
    """A draft; aliases are resolved at once. Raises `InvalidInputError` for a specification that does not hold together, `NotFoundError` for versions."""
    parsed = _resolved(model, ExperimentSpec.parse(spec))
    with transaction.atomic():
        row = Experiment.objects.create(
            id=f"e-{secrets.token_hex(6)}",
            model_id=model,
            state=ExperimentState.DRAFT.value,
            spec=parsed.encode(),
            created_by=actor,
            creator_identity=identity,
            created_at=now,
        )
        arms = ", ".join(f"{arm.name} on version {arm.version}" for arm in parsed.arms)
        moves.conclude(row, "create", Reason(actor, f"drafted: {arms}"), now)
    return experiment_record(row)


def plan(*, experiment_id: str, now: datetime, seed: str | None = None) -> PlanRecord:
    """A dry run: stores nothing. Findings of level error would refuse the start."""
    row = moves.found(experiment_id)
    spec = ExperimentSpec.parse(row.spec)
    _, people, planned = _planned(row.model_id, spec, seeds.provisional(row.pk, seed or row.seed), now)
    return PlanRecord(
        experiment=row.pk,
        population=people.size,
        eligible=people.eligible,
        refused={item.reason: item.count for item in people.refused},
        arms=planned.arms,
        sizes=planned.sizes,
        findings=planned.findings,
        duration_s=planned.duration_s,
        counted_at=now,
    )


def start(
    *,
    experiment_id: str,
    actor: str,
    now: datetime,
    identity: str = "",
    reason: str = "",
    seed: str | None = None,
    if_revision: int | None = None,
    override_quiet: bool = False,
) -> ExperimentRecord:
    """Randomise and begin: now, at the end of the namespace's quiet hours, once it is approved, or once a large fleet is
    counted. With `override_quiet`, which needs a reason, quiet hours do not keep it.

    Raises `InvalidInputError` for a fleet that is too small for the arms, `ConflictError` while a rollout or another
    experiment of the model is under way.
    """
    if override_quiet and not reason.strip():
        raise InvalidInputError("reason_missing", "expected a reason for starting in quiet hours, got none")
    row = moves.found(experiment_id)
    row.ignores_quiet_hours = override_quiet
    spec = ExperimentSpec.parse(row.spec)
    next_state(ExperimentState(row.state), ExperimentEvent.SUBMIT)  # a draft
    versions = _published(row.model_id, spec)
    needed = registry.namespace(row.model_id.partition(".")[0]).approvals
    if is_large(row.model_id):
        drawn = next(seeds.drawn(seed))
        if not needed:
            return _schedule(row, drawn, Reason(actor, reason), if_revision, now, counted=True)
        return _submit(row, drawn, needed, Actor(actor, identity), reason, if_revision, now)
    drawn, _, planned = _planned(row.model_id, spec, seeds.drawn(seed), now)
    _refuse(planned)
    if needed:
        return _submit(row, drawn, needed, Actor(actor, identity), reason, if_revision, now)
    if _quiet_until(row, now) is not None:
        return _schedule(row, drawn, Reason(actor, reason), if_revision, now, counted=False)
    try:
        with transaction.atomic():
            row = moves.locked(experiment_id, if_revision)
            row.ignores_quiet_hours = override_quiet
            _begin(row, _Ready(spec, versions, planned, drawn), actor, reason, now)
    except IntegrityError as error:
        if not _is_occupied(row.model_id):
            raise
        raise _occupied(row.model_id) from error
    return experiment_record(row, planned.findings)


def _submit(  # noqa: PLR0917 - two calls above
    row: Experiment, seed: str, needed: int, by: Actor, reason: str, if_revision: int | None, now: datetime
) -> ExperimentRecord:
    """Have it wait for approval; no device hears of it before."""
    why = f": {reason}" if reason else ""
    with transaction.atomic():
        held = moves.locked(row.pk, if_revision)
        held.state = next_state(ExperimentState(held.state), ExperimentEvent.SUBMIT).value
        held.seed, held.approvals_required, held.ignores_quiet_hours = seed, needed, row.ignores_quiet_hours
        moves.conclude(held, "submit", Reason(by.name, f"waits for {needed} approvals{why}"), now)
    if by.identity and not by.is_same_as(Actor(row.created_by, row.creator_identity)):
        return approve(
            experiment_id=row.pk, actor=by.name, identity=by.identity, reason=reason or "started it", now=now
        )
    return experiment_record(moves.found(row.pk))


def _schedule(
    row: Experiment, seed: str, reason: Reason, if_revision: int | None, now: datetime, *, counted: bool
) -> ExperimentRecord:
    """It begins when quiet hours are over and, of a large fleet, its devices are counted by a job."""
    error = in_the_way(row.model_id)
    if error is not None:
        raise error
    silent_until = _quiet_until(row, now)
    when = f"starts when the devices of {row.model_id} are counted" if counted else "starts by itself"
    when += "" if silent_until is None else f"; {quiet(silent_until)}"
    with transaction.atomic():
        held = moves.locked(row.pk, if_revision)
        held.state = next_state(ExperimentState(held.state), ExperimentEvent.SCHEDULE).value
        held.seed, held.ignores_quiet_hours = seed, row.ignores_quiet_hours
        why = f": {reason.sentence}" if reason.sentence else ""
        moves.conclude(held, "schedule", Reason(reason.actor, f"{when}{why}"), now)
        if counted and silent_until is None:
            ask_for_count(held, now)
    return experiment_record(held)


def _quiet_until(row: Experiment, now: datetime) -> datetime | None:
    """Until when it must not begin; None where it may."""
    return None if row.ignores_quiet_hours else registry.quiet_hours(row.model_id).until(now)


def approve(
    *,
    experiment_id: str,
    actor: str,
    identity: str,
    reason: str,
    now: datetime,
    if_revision: int | None = None,
    is_emergency: bool = False,
) -> ExperimentRecord:
    """Record one person's consent; the last one that is needed starts the experiment if nothing is in its way.

    Who drafted it never counts. With `is_emergency` this one is enough, whoever gives it: the caller has made sure that
    they may do everything. Raises ConflictError for an experiment that does not wait.
    """
    with transaction.atomic():
        row = moves.locked(experiment_id, if_revision)
        next_state(ExperimentState(row.state), ExperimentEvent.APPROVE)
        outcome = consent.give(row, by=Actor(actor, identity), reason=reason, is_emergency=is_emergency, now=now)
        row.ignores_quiet_hours |= is_emergency
        if outcome.missing == 0:
            row.state = next_state(ExperimentState(row.state), ExperimentEvent.APPROVE).value
        evidence = {"given": outcome.given, "required": outcome.required, "emergency": is_emergency}
        sentence = f"{outcome.sentence}: {reason.strip()}"
        moves.conclude(row, "approve", Reason(actor, sentence, evidence=evidence), now)
    if outcome.missing == 0:
        begin_scheduled(experiment_id=experiment_id, now=now)
    return experiment_record(moves.found(experiment_id))


# ---------------------------------------------------------------- by itself


def begin_scheduled(
    *, experiment_id: str, now: datetime, require: Callable[[], None] = lambda: None
) -> Decision | None:
    """Start a scheduled experiment unless something is in its way; None if it goes on waiting.

    Quiet hours keep it, unless a person has overridden them or approved it in an emergency. A large fleet is counted by a
    job, which begins it then. `require` raises, inside the transaction, if the caller may not.
    """
    row = moves.found(experiment_id)
    if row.state != ExperimentState.SCHEDULED or in_the_way(row.model_id) is not None:
        return None
    if _quiet_until(row, now) is not None:
        return None
    if is_large(row.model_id):
        ask_for_count(row, now)
        return None
    return _begin_counted(row, now, require)


def count_population(payload: Mapping[str, object], now: datetime) -> None:
    """The work of a job: count a large fleet and begin the experiment that waits for that, if it still does."""
    row = moves.found(str(payload["experiment"]))
    if row.state == ExperimentState.SCHEDULED and _quiet_until(row, now) is None:
        _begin_counted(row, now, lambda: None)


def ask_for_count(row: Experiment, now: datetime) -> None:
    """Queue the count unless it is queued already."""
    jobs.enqueue(kind=JOB_KIND, key=row.pk, payload={"experiment": row.pk}, now=now, priority=jobs.PEOPLE_WAIT)


def _begin_counted(row: Experiment, now: datetime, require: Callable[[], None]) -> Decision | None:
    """Begin, or stop with what stands against it; None where another experiment has come first."""
    spec = ExperimentSpec.parse(row.spec)
    try:
        versions = _published(row.model_id, spec)
        drawn, _, planned = _planned(row.model_id, spec, seeds.drawn(row.seed), now)
        _refuse(planned)
        with transaction.atomic():
            require()
            held = moves.locked(row.pk, row.revision)
            return _begin(held, _Ready(spec, versions, planned, drawn), CONDUCTOR, "", now)
    except IntegrityError:
        if not _is_occupied(row.model_id):
            raise
        return None
    except (InvalidInputError, ConflictError, NotFoundError) as error:
        if error.code == leadership.LOST:
            raise
        with transaction.atomic():
            held = moves.locked(row.pk, None)
            if held.state != ExperimentState.SCHEDULED or error.code == MOVED_ON:
                return None
            return moves.stop(held, Reason(CONDUCTOR, f"not started: {error.message}"), now)


def in_the_way(model: str) -> ConflictError | None:
    """Why no experiment of this model can begin now; None if one can."""
    stopped = assigned.stop_of(model)
    if stopped:
        return ConflictError("model_stopped", f"no experiment may start: {stopped}")
    active = rollouts.rollouts(model=model, states=_OFFERING, limit=1)
    if active:
        return ConflictError(
            "rollout_active", f"rollout {active[0].id} of {model} is {active[0].state.value}; end it first"
        )
    return _occupied(model) if _is_occupied(model) else None


def _is_occupied(model: str) -> bool:
    return Experiment.objects.filter(model_id=model, state__in=[state.value for state in OCCUPYING]).exists()


def _occupied(model: str) -> ConflictError:
    return ConflictError(
        "experiment_active", f"another experiment of {model} runs or awaits its end; stop or promote it first"
    )


def _published(model: str, spec: ExperimentSpec) -> dict[str, VersionRecord]:
    versions = _versions(model, spec)
    for version in versions.values():
        if version.state is not VersionState.PUBLISHED:
            raise ConflictError(
                "version_not_published", f"expected published versions, got {version.label} {version.state.value}"
            )
    return versions


def _refuse(planned: experiment_plan.ExperimentPlan) -> None:
    if planned.errors:
        raise InvalidInputError("plan_refused", "; ".join(item.sentence for item in planned.errors))


def _begin(row: Experiment, ready: _Ready, actor: str, reason: str, now: datetime) -> Decision:
    spec, versions, planned = ready.spec, ready.versions, ready.planned
    error = in_the_way(row.model_id)
    if error is not None:
        raise error
    if spec.shadow is not None:
        _require_baseline(row, versions[spec.control_arm.version])
    row.state = next_state(ExperimentState(row.state), ExperimentEvent.START).value
    row.rule_id = assignments.create_rule(
        source=row.pk,
        model=row.model_id,
        version_id=versions[spec.control_arm.version].id,
        seed=ready.seed,
        policy=spec.policy,
        metrics=spec.metrics,
        shadow=spec.shadow,
        arms=[ArmRecord(arm.name, versions[arm.version].id, buckets) for arm, buckets in layout(spec)],
        now=now,
    )
    if spec.policy.allow_delta:
        for arm in spec.treatments:
            registry_services.request_plan(model=row.model_id, version_id=versions[arm.version].id, now=now)
    assignments.set_rule(rule_id=row.rule_id, state=RuleState.RUNNING, phase=PHASE, now=now)
    row.seed, row.started_at = ready.seed, now
    row.ends_at = now + timedelta(seconds=spec.duration_s)
    row.planned = {arm.name: arm.classes for arm in planned.arms}
    counted = ", ".join(f"{arm.devices} in {arm.name} (version {arm.version})" for arm in planned.arms)
    why = f": {reason}" if reason else ""
    return moves.conclude(row, "start", Reason(actor, f"started with {counted}{why}"), now)


def _require_baseline(row: Experiment, champion: VersionRecord) -> None:
    """A shadow is compared with what devices run anyway."""
    runs = rollouts.baseline(row.model_id)
    if runs != champion.id:
        shown = "nothing" if runs is None else f"version {registry.version_by_id(runs).label}"
        raise ConflictError(
            "not_the_baseline",
            f"expected the baseline, which is {shown}, as the champion, got version {champion.label}",
        )


def _planned(
    model: str, spec: ExperimentSpec, tried: Iterable[str], now: datetime
) -> tuple[str, Population, experiment_plan.ExperimentPlan]:
    """The first of these seeds that gives every arm the devices it needs, or the last one tried.

    Devices count that have a build of every arm, as the assignment will ask for.
    """
    versions, places = list(_versions(model, spec).values()), experiment_plan.edges(spec)

    def attempt(seed: str) -> tuple[Population, experiment_plan.ExperimentPlan]:
        people = population(model=model, versions=versions, policy=spec.policy, seed=seed, places=places, now=now)
        return people, experiment_plan.plan(spec, people.placed)

    return seeds.first_that_works(tried, attempt)


def _resolved(model: str, spec: ExperimentSpec) -> ExperimentSpec:
    """With the labels of the versions that its aliases name now; raises `NotFoundError`."""
    arms = tuple(replace(arm, version=registry.resolve(model, arm.version).label) for arm in spec.arms)
    return replace(spec, arms=arms)


def _versions(model: str, spec: ExperimentSpec) -> dict[str, VersionRecord]:
    """The versions of the arms, by label; raises `NotFoundError`."""
    return {arm.version: registry.get_version(model, arm.version) for arm in spec.arms}
