"""Plans rollouts and starts them: whom a version is for, whether the policy can work, and the first phase.

Counting a population costs time in proportion to the fleet, so it happens before a transaction, and on large fleets in a
job: what an operator decides is then a constant number of statements.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Final

from django.db import transaction

from fleet.apps.assignments import selectors as assigned
from fleet.apps.assignments import services as assignments
from fleet.apps.devices import selectors as devices
from fleet.apps.jobs import services as jobs
from fleet.apps.registry import selectors as registry
from fleet.apps.registry.records import VersionRecord, VersionState
from fleet.apps.rollouts import leadership, moves, seeds
from fleet.apps.rollouts.decisions import CONDUCTOR, Reason
from fleet.apps.rollouts.models import Decision, Rollout
from fleet.apps.rollouts.population import Population, outside, population
from fleet.apps.rollouts.reaches import encode_reaches, reach_of
from fleet.apps.rollouts.records import PlanRecord, RolloutRecord
from fleet.apps.rollouts.rows import locked, unlocked
from fleet.apps.rollouts.selectors import rollout_record
from fleet.apps.rollouts.snapshots import baseline_version_id, quiet_until
from fleet.domain import approvals, ramp
from fleet.domain import plan as domain_plan
from fleet.domain.approvals import Actor
from fleet.domain.conductor import quiet
from fleet.domain.errors import ConflictError, InvalidInputError, ModelfleetError, NotFoundError
from fleet.domain.findings import Finding, Level
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import OFFERING, RolloutState
from fleet.domain.schedule import Schedule
from fleet.domain.verdicts import PhaseCounts

COUNTED_AT_ONCE: Final = 500  # devices that ask for the model; more are counted by a job
JOB_KIND: Final = "population"
BASELINE_CHANGED: Final = "the baseline is not the version that it was approved against: start it again"
# Codes of what a start may meet.
_STOPPED: Final = "stopped"
_MOVED_ON: Final = "rollout_revision"
_OCCUPIED: Final = frozenset({"rollout_active", "experiment_active"})


def plan(
    *, model: str, version: str, policy: object, now: datetime, seed: str | None = None, against: str | None = None
) -> PlanRecord:
    """A dry run: stores nothing. Findings of level error would refuse the start. Aliases are resolved at once."""
    found = registry.resolve(model, version)
    parsed = RolloutPolicy.parse(policy)
    baseline = _baseline(model, parsed, against)
    tried = seeds.provisional(f"{model}@{found.label}", seed)
    _, people, planned = _planned(found, parsed, tried, baseline, now)
    return PlanRecord(
        model=model,
        version=found.label,
        against=None if baseline is None else baseline.label,
        policy=planned.policy.encode(),
        population=people.size,
        eligible=people.eligible,
        variants=dict(people.variants),
        refused=people.refused,
        outside=outside(model, parsed, now),
        phases=planned.phases,
        findings=(*planned.findings, *_neighbours(model, parsed, waits=bool(_approvals(model, parsed)))),
        detectable=planned.detectable,
        counted_at=now,
        words=tuple(phase.words for phase in planned.policy.phases),
    )


def start(
    *,
    model: str,
    version: str,
    policy: object,
    actor: str,
    now: datetime,
    identity: str = "",
    seed: str | None = None,
    against: str | None = None,
) -> RolloutRecord:
    """Start a rollout of a published version, or of the one that an alias names now: at once, by its schedule, or once
    it is approved. Its findings are part of the answer.

    `identity` is of the person behind `actor`, who cannot approve it. A fleet of more than `COUNTED_AT_ONCE` devices is
    counted by a job: the rollout is scheduled and begins, or is cancelled with the reason, when that is done.

    Raises `InvalidInputError` for a policy that cannot work, `ConflictError` while another rollout of the model offers with the same priority or the version is not published.
    """
    starter = Actor(actor, identity)
    found = registry.resolve(model, version)
    _require_published(found)
    parsed = RolloutPolicy.parse(policy)
    if parsed.together and model not in parsed.together:
        shown = ", ".join(parsed.together)
        raise InvalidInputError("policy_invalid", f"policy.together: expected {model} among the models, got {shown}")
    baseline = _baseline(model, parsed, against)
    tried = seeds.drawn(_shared_seed(parsed, model) if seed is None else seed)
    opens_at = parsed.schedule.opens_at(now)
    silent_until = registry.quiet_hours(model).until(now)
    needed = _approvals(model, parsed)
    if is_large(model):
        _refuse(domain_plan.contradictions(parsed, has_baseline=baseline is not None))
        if needed:
            return _submit(
                version=found, policy=parsed, baseline=baseline, seed=next(tried), by=starter, needed=needed, now=now
            )
        with _alone(model, parsed):
            row = _store(version=found, policy=parsed, baseline=baseline, seed=next(tried), by=starter, now=now)
            sentence = f"starts when the devices of {model} are counted{_not_before(opens_at, silent_until)}"
            moves.schedule(row, Reason(actor, sentence), now)
            ask_for_count(row, 0, now)
        return rollout_record(row)
    seed, _, planned = _planned(found, parsed, tried, baseline, now)
    _refuse(planned.findings)
    if needed:
        return _submit(
            version=found, policy=planned.policy, baseline=baseline, seed=seed, by=starter, needed=needed, now=now
        )
    with _alone(model, parsed):
        row = _store(version=found, policy=planned.policy, baseline=baseline, seed=seed, by=starter, now=now)
        if opens_at is None and silent_until is None:
            _begin(row, version=found, baseline=baseline, planned=planned, now=now)
        else:
            by = "its schedule" if opens_at is not None else "itself"
            moves.schedule(row, Reason(actor, f"starts by {by}{_not_before(opens_at, silent_until)}"), now)
    return rollout_record(row, (*planned.findings, *_neighbours(model, parsed, row.pk)))


def _approvals(model: str, policy: RolloutPolicy) -> int:
    return approvals.required(policy.approvals, registry.namespace(model.partition(".")[0]).approvals)


def _not_before(opens_at: datetime | None, silent_until: datetime | None) -> str:
    schedule = "" if opens_at is None else f", not before {opens_at.isoformat(timespec='minutes')}"
    return schedule if silent_until is None else f"{schedule}; {quiet(silent_until)}"


def _submit(
    *,
    version: VersionRecord,
    policy: RolloutPolicy,
    baseline: VersionRecord | None,
    seed: str,
    by: Actor,
    needed: int,
    now: datetime,
) -> RolloutRecord:
    """Have it wait for approval; there is no rule before, so no device can hear of it."""
    with transaction.atomic():
        row = _store(version=version, policy=policy, baseline=baseline, seed=seed, by=by, now=now)
        row.approvals_required = needed
        asked = "one approval" if needed == 1 else f"{needed} approvals"
        moves.submit(row, Reason(by.name, f"waits for {asked}"), now)
    return rollout_record(row)


def _store(
    *,
    version: VersionRecord,
    policy: RolloutPolicy,
    baseline: VersionRecord | None,
    seed: str,
    by: Actor,
    now: datetime,
) -> Rollout:
    """A draft."""
    return Rollout.objects.create(
        id=f"r-{secrets.token_hex(6)}",
        model_id=version.model,
        version_id=version.id,
        against_id=None if baseline is None else baseline.id,
        state=RolloutState.DRAFT.value,
        seed=seed,
        policy=policy.encode(),
        created_by=by.name,
        creator_identity=by.identity,
        created_at=now,
    )


def _begin(
    row: Rollout,
    *,
    version: VersionRecord,
    baseline: VersionRecord | None,
    planned: domain_plan.Plan,
    now: datetime,
) -> Decision:
    """Make the rule and enter the first phase."""
    policy = planned.policy
    row.policy, row.against_id = policy.encode(), None if baseline is None else baseline.id
    row.rule_id = assignments.create_rule(
        source=row.pk,
        model=version.model,
        version_id=version.id,
        seed=row.seed,
        policy=policy,
        metrics=policy.gates.metrics,
        now=now,
    )
    row.reaches = encode_reaches(planned.reaches)
    counts = planned.phases[0]
    against = "a first install" if baseline is None else f"against version {baseline.label}"
    sentence = (
        f"version {version.label} starts at {policy.phases[0].words} of {counts.population} devices, {against}: "
        f"{counts.treated} treated, {counts.control} control"
    )
    evidence = {
        "findings": [{"level": item.level, "code": item.code, "sentence": item.sentence} for item in planned.findings]
    }
    return moves.begin(row, policy, counts, Reason(row.created_by, sentence, evidence=evidence), now)


def _require_published(version: VersionRecord) -> None:
    if version.state is not VersionState.PUBLISHED:
        raise ConflictError(
            "version_not_published", f"expected a published version, got {version.label} {version.state.value}"
        )


def _refuse(findings: Iterable[domain_plan.Finding]) -> None:
    errors = [item.sentence for item in findings if item.level is domain_plan.Level.ERROR]
    if errors:
        raise InvalidInputError("plan_refused", "; ".join(errors))


@contextmanager
def _alone(model: str, policy: RolloutPolicy) -> Iterator[None]:
    """A transaction in which no other start of the model comes between; raises `ConflictError` if one came before."""
    with transaction.atomic():
        assignments.lock_rules(model=model)
        error = in_the_way(model, policy)
        if error is not None:
            raise error
        yield


def in_the_way(model: str, policy: RolloutPolicy) -> ConflictError | None:
    """Why a rollout with this policy cannot begin beside what moves or stops devices of the model; None if it can."""
    stop = assigned.stop_of(model)
    if stop:
        return ConflictError(_STOPPED, f"expected no stop in force, got one: {stop}")
    experiment = assigned.running_experiment(model)
    if experiment:
        return ConflictError(
            "experiment_active", f"experiment {experiment} of {model} is running; stop it or await its verdict"
        )
    for other in Rollout.objects.filter(model_id=model, state__in=OFFERING):
        theirs = RolloutPolicy.parse(other.policy)
        if theirs.priority == policy.priority and _may_overlap(theirs, policy):
            return ConflictError(
                "rollout_active",
                f"another rollout of {model}, {other.pk}, is {other.state} with the same priority, {theirs.priority}: "
                "complete, revert or cancel it, or give this one another priority or other hardware classes",
            )
    return None


def _may_overlap(one: RolloutPolicy, other: RolloutPolicy) -> bool:
    """Whether a device could be in both populations; only classes prove that none is."""
    classes = set(one.hardware_classes), set(other.hardware_classes)
    return not (all(classes) and classes[0].isdisjoint(classes[1]))


def _neighbours(model: str, policy: RolloutPolicy, own: str = "", *, waits: bool = False) -> tuple[Finding, ...]:
    """What other rollouts of the model mean for this one, which may wait for approval until they are over."""
    found: list[Finding] = []
    for other in Rollout.objects.filter(model_id=model, state__in=OFFERING).exclude(pk=own).select_related("version"):
        theirs, level = RolloutPolicy.parse(other.policy), Level.NOTE
        named = f"{other.pk} (version {other.version.label}, priority {theirs.priority})"
        if not _may_overlap(theirs, policy):
            continue
        if theirs.priority > policy.priority:
            sentence = f"{named} comes first: devices that it treats or compares are not this one's"
        elif theirs.priority < policy.priority:
            sentence = f"{named} loses the devices that this one treats or compares"
        else:
            sentence = f"{named} has the same priority: this cannot start beside it"
            level = Level.WARNING if waits else Level.ERROR
        found.append(Finding(level, "other_rollout", sentence))
    return tuple(found)


def _shared_seed(policy: RolloutPolicy, model: str) -> str | None:
    """Models that move together share their order of devices: the seed of a set is that of its first rollout."""
    mates = Rollout.objects.filter(model_id__in=policy.together, state__in=OFFERING).exclude(model_id=model)
    found = (row.seed for row in mates if tuple(row.policy.get("together", ())) == policy.together)
    return next(found, None) if policy.together else None


def _planned(
    version: VersionRecord,
    policy: RolloutPolicy,
    tried: Iterable[str],
    baseline: VersionRecord | None,
    now: datetime,
) -> tuple[str, Population, domain_plan.Plan]:
    """The first of these seeds under which the plan can work, or the last one tried, with whom it finds."""

    def attempt(seed: str) -> tuple[Population, domain_plan.Plan]:
        people, control = _people(version, policy, seed, now)
        return people, domain_plan.validate(
            policy, people.placed, has_baseline=baseline is not None, control_share=control
        )

    return seeds.first_that_works(tried, attempt)


def _baseline(model: str, policy: RolloutPolicy, against: str | None = None) -> VersionRecord | None:
    """The version that untreated devices run. `against`, if given, has to be that one: nothing else is compared with."""
    version_id = baseline_version_id(model, policy.hardware_classes)
    baseline = None if version_id is None else registry.version_by_id(version_id)
    if against is not None and (baseline is None or not _is_named(baseline, against)):
        runs = "nothing" if baseline is None else f"version {baseline.label}"
        raise ConflictError("not_the_baseline", f"expected the baseline, which is {runs}, got version {against:.64}")
    return baseline


def refuse_another_baseline(model: str, policy: RolloutPolicy, against: str | None) -> None:
    """Raises `ConflictError` if `against` names a version that untreated devices do not run."""
    _baseline(model, policy, against)


def _is_named(version: VersionRecord, reference: str) -> bool:
    """Whether a label or an alias means this version."""
    with suppress(NotFoundError):
        return registry.resolve(version.model, reference).id == version.id
    return False


# ---------------------------------------------------------------- who takes part


def count_population(payload: Mapping[str, object], now: datetime) -> None:
    """The work of a `population` job: count whom a phase is about; begin the rollout if it was waiting for that.

    `payload` is what `ask_for_count` queued. A rollout that has moved on is left alone.
    """
    rollout_id, phase = str(payload["rollout"]), payload["phase"]
    row = unlocked(rollout_id)
    policy = RolloutPolicy.parse(row.policy)
    if row.state == RolloutState.SCHEDULED:
        if policy.schedule.opens_at(now) is None and quiet_until(row, now) is None:
            begin_counted(row, policy, now)
        else:
            _refuse_counted(row, policy, now)
    elif row.phase == phase and row.state in OFFERING:
        counts = _count(row, policy, row.phase, now)
        with transaction.atomic():
            row = locked(rollout_id, None)
            if row.phase == phase:
                moves.count(row, counts, now)


def begin_counted(
    row: Rollout, policy: RolloutPolicy, now: datetime, require: Callable[[], None] = lambda: None
) -> Decision | None:
    """Count the fleet and begin a scheduled rollout, or cancel it with what stands against it. None if it goes on waiting.

    What came while the fleet was counted is looked at again: an emergency stop, somebody's word, another baseline, which
    ends a rollout that was approved against the old one. `require` raises, inside the transaction, if the caller may not.
    """
    version = registry.version_by_id(row.version_id)
    baseline = _baseline(row.model_id, policy)
    _, _, planned = _planned(version, policy, [row.seed], baseline, now)
    try:
        _require_published(version)
        _refuse(planned.findings)
        with _alone(row.model_id, policy):
            require()
            held = locked(row.pk, row.revision)
            runs = baseline_version_id(row.model_id, policy.hardware_classes)
            if row.approvals_required and runs != row.against_id:
                raise ConflictError("baseline_changed", BASELINE_CHANGED)
            if runs != (None if baseline is None else baseline.id):
                return None
            return _begin(held, version=version, baseline=baseline, planned=planned, now=now)
    except (InvalidInputError, ConflictError) as error:
        if error.code == leadership.LOST:
            raise
        return None if _passes_by(error, row, policy) else _cancel(row, error, now)


def _passes_by(error: ModelfleetError, row: Rollout, policy: RolloutPolicy) -> bool:
    """Whether a rollout that waits for its moment waits for this to be over, too; the conductor tries again.

    One that was to start at once does not queue behind another, wherever its fleet is counted.
    """
    may_queue = row.approvals_required > 0 or policy.schedule != Schedule()
    return error.code in {_STOPPED, _MOVED_ON} or (may_queue and error.code in _OCCUPIED)


def _refuse_counted(row: Rollout, policy: RolloutPolicy, now: datetime) -> None:
    """Long before its moment comes, say that the plan cannot work."""
    version = registry.version_by_id(row.version_id)
    _, _, planned = _planned(version, policy, [row.seed], _baseline(row.model_id, policy), now)
    try:
        _refuse(planned.findings)
    except InvalidInputError as error:
        _cancel(row, error, now)


def _cancel(row: Rollout, error: ModelfleetError, now: datetime) -> Decision | None:
    with transaction.atomic():
        held = locked(row.pk, None)
        if held.state != RolloutState.SCHEDULED:
            return None
        return moves.cancel(held, Reason(CONDUCTOR, f"not started: {error.message}"), now)


def is_large(model: str) -> bool:
    """Whether counting its devices would keep the caller waiting."""
    return devices.has_more_than(COUNTED_AT_ONCE, model=model)


def ask_for_count(row: Rollout, phase: int, now: datetime) -> None:
    """Queue the count unless it is queued already."""
    payload = {"rollout": row.pk, "phase": phase}
    jobs.enqueue(kind=JOB_KIND, key=f"{row.pk}-{phase}", payload=payload, now=now, priority=jobs.PEOPLE_WAIT)


def count_at_once(row: Rollout, policy: RolloutPolicy, phase: int, now: datetime) -> PhaseCounts | None:
    """The phase's counts, or None where counting would keep the caller waiting."""
    if is_large(row.model_id):
        return None
    return _count(row, policy, phase, now)


def _count(row: Rollout, policy: RolloutPolicy, phase: int, now: datetime) -> PhaseCounts:
    version = registry.version_by_id(row.version_id)
    reach = reach_of(row, policy, phase)
    edges = sorted({reach.treated_end, reach.control_start, *reach.class_ends.values()})
    people = population(
        model=version.model,
        versions=[version],
        policy=policy,
        seed=row.seed,
        places=edges,
        now=now,
        rule_id=row.rule_id,
    )
    return ramp.count(reach, people.placed)


def _people(version: VersionRecord, policy: RolloutPolicy, seed: str, now: datetime) -> tuple[Population, float]:
    """Whom a policy that has not begun is about, and the share of them that is its control.

    Phases by count ask again, bucket by bucket, where they end; so does a control that many devices make smaller, whose
    share is then that of the first count, whatever comes and goes meanwhile.
    """
    fine: tuple[int, ...] = ()
    control: float | None = None
    while True:
        tried = policy if control is None else replace(policy, control_share=control)
        places = ramp.refined(tried, ramp.edges(tried), fine)
        found = population(model=version.model, versions=[version], policy=tried, seed=seed, places=places, now=now)
        further = tuple(sorted({*fine, *ramp.cells(tried, found.placed)}))
        share = ramp.control_share(policy, found.eligible) if control is None else control
        if further == fine and share == tried.control_share:
            return found, share
        fine, control = further, share
