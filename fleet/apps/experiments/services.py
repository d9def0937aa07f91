"""Creates, plans, starts, extends, promotes and stops experiments. The conductor's part is `conducting`.

Everything that costs time in proportion to the fleet (counting a population) happens before a transaction. What an
operator decides is a constant number of statements in one, with the evidence of that moment.
"""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from django.db import IntegrityError, transaction

from device_client.wire.bucketing import BUCKETS
from fleet.apps.assignments import selectors as assigned
from fleet.apps.assignments import services as assignments
from fleet.apps.assignments.records import ArmRecord
from fleet.apps.experiments import moves
from fleet.apps.experiments.models import Experiment
from fleet.apps.experiments.records import ExperimentRecord, PlanRecord
from fleet.apps.experiments.selectors import experiment_record
from fleet.apps.experiments.snapshots import PHASE, snapshot
from fleet.apps.registry import selectors as registry
from fleet.apps.registry import services as registry_services
from fleet.apps.registry.records import VersionRecord, VersionState
from fleet.apps.rollouts import seeds
from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.rollouts import services as rollout_services
from fleet.apps.rollouts.decisions import Reason
from fleet.apps.rollouts.population import Population, population
from fleet.domain import experiment_plan
from fleet.domain.approvals import Actor, require_person
from fleet.domain.errors import ConflictError, ForbiddenError, InvalidInputError
from fleet.domain.experiment import ExperimentSpec, layout
from fleet.domain.experiment_analysis import analyse
from fleet.domain.experiment_decision import Verdict, may_extend
from fleet.domain.experiment_states import OCCUPYING, ExperimentEvent, ExperimentState, next_state
from fleet.domain.facts import RuleState
from fleet.domain.gate_policy import YEAR_S
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import TERMINAL, RolloutState

# Of a promotion that was cut short: its rollout may still wait for approval or for a count.
_PROMOTABLE: Final = tuple(state.value for state in RolloutState if state not in TERMINAL | {RolloutState.REVERTING})
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
) -> ExperimentRecord:
    """Randomise and begin. Raises `InvalidInputError` for a fleet that is too small for the arms, `ConflictError` while
    a rollout or another experiment of the model is under way.
    """
    row = moves.found(experiment_id)
    spec = ExperimentSpec.parse(row.spec)
    next_state(ExperimentState(row.state), ExperimentEvent.START)
    _require_approval(row, Actor(actor, identity))
    versions = _versions(row.model_id, spec)
    for version in versions.values():
        if version.state is not VersionState.PUBLISHED:
            raise ConflictError(
                "version_not_published", f"expected published versions, got {version.label} {version.state.value}"
            )
    drawn, _, planned = _planned(row.model_id, spec, seeds.drawn(seed), now)
    if planned.errors:
        raise InvalidInputError("plan_refused", "; ".join(item.sentence for item in planned.errors))
    try:
        with transaction.atomic():
            row = moves.locked(experiment_id, if_revision)
            _begin(row, _Ready(spec, versions, planned, drawn), actor, reason, now)
    except IntegrityError as error:
        if not Experiment.objects.filter(model_id=row.model_id, state__in=[s.value for s in OCCUPYING]).exists():
            raise
        raise ConflictError(
            "experiment_active",
            f"another experiment of {row.model_id} runs or awaits its end; stop or promote it first",
        ) from error
    return experiment_record(row, planned.findings)


def _require_approval(row: Experiment, by: Actor) -> None:
    """Where rollouts take other people's approval, starting somebody else's draft is the one approval of an experiment.

    An experiment can reach every device, so it must not be the way around; a namespace that asks for more has none.
    """
    namespace = registry.namespace(row.model_id.partition(".")[0])
    if namespace.approvals > 1:
        raise ForbiddenError(
            "approvals_missing",
            f"namespace {namespace.name} asks for {namespace.approvals} approvals, and an experiment can have one",
        )
    if not namespace.approvals:
        return
    require_person(by)
    if by.is_same_as(Actor(row.created_by, row.creator_identity)):
        raise ForbiddenError(
            "approvals_missing",
            f"namespace {namespace.name} asks for approval: expected somebody other than {by.name} to start it",
        )


def _begin(row: Experiment, ready: _Ready, actor: str, reason: str, now: datetime) -> None:
    spec, versions, planned = ready.spec, ready.versions, ready.planned
    stopped = assigned.stop_of(row.model_id)
    if stopped:
        raise ConflictError("model_stopped", f"no experiment may start: {stopped}")
    active = rollouts.rollouts(model=row.model_id, states=_OFFERING, limit=1)
    if active:
        raise ConflictError(
            "rollout_active", f"rollout {active[0].id} of {row.model_id} is {active[0].state.value}; end it first"
        )
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
    moves.conclude(row, "start", Reason(actor, f"started with {counted}{why}"), now)


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

    Phases of `policy` that would treat no more than the winner's buckets are left out. A promotion that was cut short
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
    """The policy without the phases that the experiment has already been."""
    parsed = RolloutPolicy.parse(policy)
    later = tuple(phase for phase in parsed.phases if phase.share > share) or parsed.phases[-1:]
    encoded = parsed.encode()
    phases = encoded["phases"]
    kept = (
        [item for item, phase in zip(phases, parsed.phases, strict=True) if phase in later]
        if isinstance(phases, list)
        else []
    )
    return {**encoded, "preset": "", "phases": kept}
