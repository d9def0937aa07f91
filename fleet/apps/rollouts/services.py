"""Plans, starts and steers rollouts, and lets the conductor look at them.

Everything that costs time in proportion to the fleet (counting a population) happens before a transaction; what an
operator or the conductor decides is then a constant number of statements in one.
"""

import secrets
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from django.db import IntegrityError, transaction

from fleet.apps.assignments import selectors as assigned
from fleet.apps.assignments import services as assignments
from fleet.apps.registry import selectors as registry
from fleet.apps.registry.records import VersionRecord, VersionState
from fleet.apps.rollouts import leadership, moves
from fleet.apps.rollouts.models import Decision, Rollout
from fleet.apps.rollouts.moves import Reason
from fleet.apps.rollouts.population import Population, population
from fleet.apps.rollouts.records import DecisionRecord, Failure, PlanRecord, RolloutRecord, TickRecord
from fleet.apps.rollouts.selectors import conducted, decision_record, rollout_record
from fleet.apps.rollouts.snapshots import baseline_version_id, snapshot
from fleet.domain import plan as domain_plan
from fleet.domain.conductor import Action, Intent, decide, evaluate
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import RolloutState
from fleet.domain.verdicts import PhaseCounts

ACTOR: Final = "conductor"
MAX_SEED_CHARS: Final = 64
OFFERING: Final = (RolloutState.RUNNING.value, RolloutState.HELD.value)  # one such rollout per model
SEED_DRAWS: Final = 100
REDRAW_UP_TO_DEVICES: Final = 1_000


# ---------------------------------------------------------------- plan and start


def plan(
    *, model: str, version: str, policy: object, now: datetime, seed: str | None = None, against: str | None = None
) -> PlanRecord:
    """A dry run: stores nothing. Findings of level error would refuse the start."""
    found = registry.get_version(model, version)
    parsed = RolloutPolicy.parse(policy)
    baseline = _baseline(model, against)
    people = population(model=model, version=found, policy=parsed, now=now)
    provisional = (f"plan:{model}@{version}:{number}" for number in range(SEED_DRAWS))
    _, planned = _planned(parsed, people, [seed] if seed else provisional, has_baseline=baseline is not None)
    return PlanRecord(
        model=model,
        version=version,
        against=None if baseline is None else baseline.label,
        policy=planned.policy.encode(),
        population=people.size,
        eligible=len(people.members),
        variants=dict(people.variants),
        refused=people.refused,
        phases=planned.phases,
        findings=planned.findings,
        detectable=planned.detectable,
    )


def start(
    *,
    model: str,
    version: str,
    policy: object,
    actor: str,
    now: datetime,
    seed: str | None = None,
    against: str | None = None,
) -> RolloutRecord:
    """Start a rollout of a published version. Its findings are part of the answer.

    Raises `InvalidInputError` for a policy that cannot work, `ConflictError` while another rollout of the model offers
    or the version is not published.
    """
    found = registry.get_version(model, version)
    if found.state is not VersionState.PUBLISHED:
        raise ConflictError("version_not_published", f"expected a published version, got {version} {found.state.value}")
    parsed = RolloutPolicy.parse(policy)
    baseline = _baseline(model, against)
    people = population(model=model, version=found, policy=parsed, now=now)
    seed, planned = _planned(parsed, people, _seeds(seed), has_baseline=baseline is not None)
    if planned.errors:
        raise InvalidInputError("plan_refused", "; ".join(item.sentence for item in planned.errors))
    try:
        with transaction.atomic():
            row = _create(version=found, planned=planned, baseline=baseline, seed=seed, actor=actor, now=now)
    except IntegrityError as error:
        if not Rollout.objects.filter(model_id=model, state__in=OFFERING).exists():
            raise
        raise ConflictError(
            "rollout_active", f"another rollout of {model} is running or held; complete, revert or cancel it first"
        ) from error
    return rollout_record(row, planned.findings)


def _create(
    *,
    version: VersionRecord,
    planned: domain_plan.Plan,
    baseline: VersionRecord | None,
    seed: str,
    actor: str,
    now: datetime,
) -> Rollout:
    policy = planned.policy
    experiment = assigned.running_experiment(version.model)
    if experiment:
        raise ConflictError(
            "experiment_active", f"experiment {experiment} of {version.model} is running; stop it or await its verdict"
        )
    rollout_id = f"r-{secrets.token_hex(6)}"
    rule_id = assignments.create_rule(
        source=rollout_id,
        model=version.model,
        version_id=version.id,
        seed=seed,
        hardware_classes=policy.hardware_classes,
        groups=policy.groups,
        chosen="" if policy.filter is None else policy.filter.text,
        device_policy=policy.device.encode(),
        parameters=policy.parameters,
        allow_delta=policy.allow_delta,
        delta_wait_s=policy.delta_wait_s,
        jitter_s=policy.jitter_s,
        priority=policy.priority,
        now=now,
    )
    row = Rollout.objects.create(
        id=rollout_id,
        model_id=version.model,
        version_id=version.id,
        against_id=None if baseline is None else baseline.id,
        rule_id=rule_id,
        state=RolloutState.DRAFT.value,
        seed=seed,
        policy=policy.encode(),
        created_by=actor,
        created_at=now,
    )
    counts = planned.phases[0]
    against = "a first install" if baseline is None else f"against version {baseline.label}"
    sentence = (
        f"version {version.label} starts at {policy.phases[0].share:.0%} of {counts.population} devices, {against}: "
        f"{counts.treated} treated, {counts.control} control"
    )
    moves.begin(row, policy, counts, Reason(actor, sentence), now)
    return row


def _planned(
    policy: RolloutPolicy, people: Population, seeds: Iterable[str], *, has_baseline: bool
) -> tuple[str, domain_plan.Plan]:
    """The first of these seeds under which the plan can work, or the last one tried.

    On a small fleet most orders put too few devices where a phase needs them. Drawing again looks at counts alone,
    before anything was measured, so it favours neither arm.
    """
    tried = ((seed, domain_plan.validate(policy, people.placed(seed), has_baseline=has_baseline)) for seed in seeds)
    chosen = next(tried)
    while chosen[1].errors and len(people.members) <= REDRAW_UP_TO_DEVICES:
        following = next(tried, None)
        if following is None:
            break
        chosen = following
    return chosen


def _seeds(seed: str | None) -> Iterator[str]:
    """The given seed, or as many random ones as are asked for."""
    if seed is None:
        yield from (secrets.token_hex(8) for _ in range(SEED_DRAWS))
        return
    if not 1 <= len(seed) <= MAX_SEED_CHARS or "\x00" in seed:
        raise InvalidInputError("seed_invalid", f"expected a seed of 1 to {MAX_SEED_CHARS} characters, got {len(seed)}")
    yield seed


def _baseline(model: str, against: str | None) -> VersionRecord | None:
    """The version that untreated devices run. `against`, if given, has to be that one: nothing else is compared with."""
    version_id = baseline_version_id(model)
    baseline = None if version_id is None else registry.version_by_id(version_id)
    if against is not None and (baseline is None or baseline.label != against):
        runs = "nothing" if baseline is None else f"version {baseline.label}"
        raise ConflictError("not_the_baseline", f"expected the baseline, which is {runs}, got version {against:.64}")
    return baseline


# ---------------------------------------------------------------- a person's word


def hold(*, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None) -> RolloutRecord:
    """Offer nothing new; devices that run the version keep it."""
    with transaction.atomic():
        row = _locked(rollout_id, if_revision)
        moves.hold(row, Reason(actor, reason or f"held by {actor}"), now)
        return rollout_record(row)


def resume(*, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None) -> RolloutRecord:
    """Go on after a hold; the phase's deadline counts from now."""
    with transaction.atomic():
        row = _locked(rollout_id, if_revision)
        moves.resume(row, Reason(actor, reason or f"resumed by {actor}"), now)
        return rollout_record(row)


def advance(
    *, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None
) -> RolloutRecord:
    """Go to the next phase, or complete after the last, whatever the gates say; what they said is kept."""
    row = _unlocked(rollout_id)
    to_phase, counts = row.phase + 1, PhaseCounts()
    policy = RolloutPolicy.parse(row.policy)
    is_last = to_phase >= len(policy.phases)
    if not is_last:
        counts = _count(row, policy, to_phase, now)
    with transaction.atomic():
        row = _locked(rollout_id, if_revision)
        if row.phase + 1 != to_phase:
            raise ConflictError("rollout_moved", f"expected phase {to_phase}, it is in phase {row.phase + 1} by now")
        spoken = Reason(actor, reason or f"advanced by {actor}")
        if row.state == RolloutState.HELD:
            moves.resume(row, spoken, now)
        if row.state == RolloutState.RUNNING:
            judged = evaluate(snapshot(row, policy, now), now)
            spoken = Reason(actor, spoken.sentence, judged.verdict.value, judged.encode())
        if is_last:
            moves.complete(row, spoken, now)
        else:
            moves.advance(row, policy, counts, spoken, now)
        return rollout_record(row)


def revert(*, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None) -> RolloutRecord:
    """Move the treated devices back to what they ran before."""
    with transaction.atomic():
        row = _locked(rollout_id, if_revision)
        moves.revert(row, Reason(actor, reason or f"reverted by {actor}"), now)
        return rollout_record(row)


def cancel(*, rollout_id: str, actor: str, reason: str, now: datetime, if_revision: int | None = None) -> RolloutRecord:
    """End it for good; what it treated falls back to the baseline."""
    with transaction.atomic():
        row = _locked(rollout_id, if_revision)
        moves.cancel(row, Reason(actor, reason or f"cancelled by {actor}"), now)
        return rollout_record(row)


def _unlocked(rollout_id: str) -> Rollout:
    row = Rollout.objects.select_related("version", "against").filter(pk=rollout_id).first()
    if row is None:
        raise NotFoundError("rollout_unknown", f"no rollout {rollout_id!r:.40}")
    return row


def _locked(rollout_id: str, if_revision: int | None) -> Rollout:
    row = (
        Rollout.objects.select_for_update(of=("self",))
        .select_related("version", "against")
        .filter(pk=rollout_id)
        .first()
    )
    if row is None:
        raise NotFoundError("rollout_unknown", f"no rollout {rollout_id!r:.40}")
    if if_revision is not None and row.revision != if_revision:
        raise ConflictError("rollout_revision", f"expected revision {row.revision}, got {if_revision}: it has moved on")
    return row


def _count(row: Rollout, policy: RolloutPolicy, phase: int, now: datetime) -> PhaseCounts:
    version = registry.version_by_id(row.version_id)
    people = population(model=row.model_id, version=version, policy=policy, now=now)
    return domain_plan.count(policy, phase, people.placed(row.seed))


# ---------------------------------------------------------------- the conductor


def tick(*, now: datetime, holder: str) -> TickRecord:
    """One look at every rollout under way, if `holder` leads: decide, then apply in one fenced transaction each.

    A rollout that cannot be judged stops no other; it is among the failures.
    """
    token = leadership.acquire(name=leadership.CONDUCTOR, holder=holder, now=now)
    if token is None:
        return TickRecord(is_leader=False)
    made: list[DecisionRecord] = []
    failures: list[Failure] = []
    for rollout_id in conducted():
        try:
            decision = _conduct(rollout_id, token, now)
            if decision is not None:
                made.append(decision)
        except Exception as error:  # noqa: BLE001 - one rollout that cannot be judged must not leave the others unwatched
            failures.append(Failure(rollout_id, error))
    return TickRecord(True, tuple(made), tuple(failures))


def resign(*, now: datetime, holder: str) -> None:
    """Give up leadership at once, so that another conductor need not wait for the lease to end."""
    leadership.release(name=leadership.CONDUCTOR, holder=holder, now=now)


def _conduct(rollout_id: str, token: int, now: datetime) -> DecisionRecord | None:
    row = _unlocked(rollout_id)
    policy = RolloutPolicy.parse(row.policy)
    intent = decide(snapshot(row, policy, now), now)
    if intent.action is Action.WAIT:
        return None
    counts = _count(row, policy, intent.to_phase, now) if intent.to_phase is not None else PhaseCounts()
    with transaction.atomic():
        leadership.require(name=leadership.CONDUCTOR, token=token, now=now)
        locked = _locked(rollout_id, row.revision)
        return decision_record(_apply(locked, policy, intent, counts, now))


def _apply(row: Rollout, policy: RolloutPolicy, intent: Intent, counts: PhaseCounts, now: datetime) -> Decision:
    verdict = "" if intent.verdict is None else intent.verdict.value
    reason = Reason(ACTOR, intent.sentence, verdict, intent.evidence)
    if intent.action is Action.ADVANCE:
        return moves.advance(row, policy, counts, reason, now)
    move = {
        Action.COMPLETE: moves.complete,
        Action.HOLD: moves.hold,
        Action.REVERT: moves.revert,
        Action.FINISH_REVERT: moves.finish_revert,
    }[intent.action]
    return move(row, reason, now)
