"""Reads rules, offers and assignments. Every function costs a constant number of queries."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count, Q, QuerySet, prefetch_related_objects

from device_client.wire.bucketing import BucketRange
from device_client.wire.director import DevicePolicy
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.shadow import ShadowBudget
from fleet.apps.assignments.models import Assignment, Offer, PlanRevision, Rule, Stop
from fleet.apps.assignments.records import (
    ArmOffers,
    ArmRecord,
    ArmView,
    AssignmentRecord,
    OfferCounts,
    OfferRecord,
    RuleRecord,
    RuleView,
    StopRecord,
)
from fleet.domain.assign import Step
from fleet.domain.delivery import parse_delivery
from fleet.domain.errors import NotFoundError
from fleet.domain.facts import Denied, Holdback, RuleState
from fleet.domain.filters.filter import Filter
from fleet.domain.pacing import Traffic
from fleet.domain.reach import Reach

# Older completed rules can still be the newest that matches a device (by class or group), but not for ever.
BASELINES_PER_MODEL: Final = 20
WITHDRAWN_PER_MODEL: Final = 1
# Devices that still run what one of these gave them go back at once, whatever the hour.
RECALLED_PER_MODEL: Final = 10


def rule(rule_id: int) -> RuleRecord:
    """One rule; raises `NotFoundError`."""
    row = Rule.objects.prefetch_related("arms").filter(pk=rule_id).first()
    if row is None:
        raise NotFoundError("rule_unknown", f"no rule {rule_id}")
    return rule_record(row)


def rules(model: str) -> tuple[RuleRecord, ...]:
    """All rules of a model, the newest first."""
    rows = Rule.objects.prefetch_related("arms").filter(model_id=model).order_by("-id")
    return tuple(rule_record(row) for row in rows)


def assignable_rules(model: str) -> tuple[Rule, ...]:
    """The rows that can give a device a version of this model. For this app only."""
    return _with_arms(_assignable(model))


def stops() -> tuple[StopRecord, ...]:
    """The stops in force, the newest first."""
    rows = Stop.objects.filter(lifted_at=None).order_by("-created_at", "-pk")
    return tuple(StopRecord(row.scope, row.reason, row.created_by, row.created_at) for row in rows)


def stop_of(model: str) -> str:
    """Why nobody may change what devices run of this model, as a sentence; empty if nothing forbids it."""
    scopes = ["*", model.partition(".")[0], model]
    row = Stop.objects.filter(lifted_at=None, scope__in=scopes).order_by("created_at", "pk").first()
    if row is None:
        return ""
    meant = "everything" if row.scope == "*" else row.scope
    return f"{meant} was stopped by {row.created_by}: {row.reason}"


def recalled_rules(model: str) -> tuple[Rule, ...]:
    """The rows of the newest withdrawn rules of this model. For this app only."""
    rows = Rule.objects.prefetch_related("arms").filter(model_id=model, state=RuleState.WITHDRAWN.value)
    return tuple(rows.order_by("-ended_at", "-id")[:RECALLED_PER_MODEL])


def traffic(*, rule_id: int, expected: int, silent_after_s: float, now: datetime) -> Traffic:
    """What a rule has under way: what its pacing is decided from. Two statements."""
    before = now - timedelta(seconds=silent_after_s)
    unseen = Q(device__last_seen_at__isnull=True) | Q(device__last_seen_at__lt=before)
    pending = Q(outcome=Offer.Outcome.PENDING)
    rows = Offer.objects.filter(rule_id=rule_id)
    found = rows.aggregate(
        offered=Count("id"),
        committed=Count("id", filter=Q(outcome=Offer.Outcome.COMMITTED)),
        minute=Count("id", filter=Q(offered_at__gt=now - timedelta(seconds=60))),
        pending=Count("id", filter=pending),
    )
    # Only what was offered long ago can be silent, and those that are pending so long are few.
    silent = rows.filter(pending & Q(offered_at__lt=before) & unseen).count()
    return Traffic(
        in_flight=found["pending"] - silent,
        last_minute=found["minute"],
        committed=found["committed"],
        offered=found["offered"],
        expected=expected,
    )


def announced_rules(model: str) -> tuple[Rule, ...]:
    """The rows that a plan notice is made from. For this app only."""
    withdrawn = Rule.objects.filter(model_id=model, state=RuleState.WITHDRAWN.value).order_by("-id")
    return _with_arms([*_assignable(model), *withdrawn[:WITHDRAWN_PER_MODEL]])


def offered_versions(model: str, *, by_patch: bool = False) -> frozenset[int]:
    """The ids of all versions that a device can be told to run of this model; `by_patch`: those that may come as patches."""
    rows = [row for row in assignable_rules(model) if row.allow_delta or not by_patch]
    return frozenset(row.version_id for row in rows) | frozenset(
        arm.version_id for row in rows for arm in row.arms.all()
    )


def _assignable(model: str) -> list[Rule]:
    rows = Rule.objects.filter(model_id=model)
    ramping = rows.filter(state__in=[RuleState.RUNNING.value, RuleState.HELD.value])
    completed = rows.filter(state=RuleState.COMPLETED.value).order_by("-ended_at", "-id")[:BASELINES_PER_MODEL]
    return [*ramping, *completed]


def _with_arms(rows: list[Rule]) -> tuple[Rule, ...]:
    """The same rows with the arms of all of them read at once."""
    prefetch_related_objects(rows, "arms")
    return tuple(rows)


def active_rules_for_ingest() -> tuple[RuleView, ...]:
    """Rules whose present phase is being measured, running or held, in the order in which they claim devices."""
    rows = (
        Rule.objects.filter(state__in=[RuleState.RUNNING.value, RuleState.HELD.value], phase_started_at__isnull=False)
        .select_related("version")
        .prefetch_related("arms__version")
        .order_by("-priority", "-created_at", "-id")
    )
    return tuple(
        RuleView(
            id=row.pk,
            model=row.model_id,
            version=row.version.label,
            seed=row.seed,
            phase=row.phase,
            phase_started_at=row.phase_started_at,
            hardware_classes=frozenset(row.hardware_classes),
            groups=frozenset(row.groups),
            metrics=row.metrics,
            slow_ms=device_policy(row.device_policy).slow_ms,
            filter=Filter.parse(row.filter),
            source=row.source,
            priority=row.priority,
            reach=_reach(row),
            denied=_denied(row),
            is_shadow=row.shadow is not None,
            arms=tuple(ArmView(arm.name, arm.version.label, BucketRange(arm.start, arm.end)) for arm in row.arms.all()),
        )
        for row in rows
        if row.phase_started_at is not None
    )


def running_experiment(model: str) -> str:
    """The source of the running rule with arms, if this model has one; else empty."""
    rows = Rule.objects.filter(model_id=model, state=RuleState.RUNNING.value, arms__isnull=False)
    return str(rows.values_list("source", flat=True).first() or "")


def slow_thresholds(models: Collection[str]) -> Mapping[str, float]:
    """The latency threshold in milliseconds that each of these models is under: that of its newest rule at work."""
    at_work = [RuleState.RUNNING.value, RuleState.HELD.value, RuleState.COMPLETED.value]
    rows = Rule.objects.filter(model_id__in=models, state__in=at_work).order_by("id")
    return {model: device_policy(policy).slow_ms for model, policy in rows.values_list("model_id", "device_policy")}


def offered_at(*, rule_ids: Collection[int], device_ids: Collection[str]) -> Mapping[tuple[int, str], datetime]:
    """When these rules were first offered to these devices, by (rule, device); pairs without an offer are absent."""
    rows = Offer.objects.filter(rule_id__in=rule_ids, device_id__in=device_ids)
    return {(rule, device): at for rule, device, at in rows.values_list("rule_id", "device_id", "offered_at")}


def offers(*, rule_id: int, phase: int, now: datetime, grace_s: float) -> tuple[OfferCounts, ...]:
    """What became of the offers of one phase of a rule, per hardware class."""
    return _counted(Offer.objects.filter(rule_id=rule_id, phase=phase), now, grace_s)


def offers_up_to(*, rule_id: int, phase: int, now: datetime, grace_s: float) -> tuple[OfferCounts, ...]:
    """What became of the offers of a rule in this phase and all before it, per hardware class."""
    return _counted(Offer.objects.filter(rule_id=rule_id, phase__lte=phase), now, grace_s)


def has_more_offers_than(number: int, *, rule_id: int) -> bool:
    """Whether a rule was offered to more devices than this. Costs the same however many there are."""
    return Offer.objects.filter(rule_id=rule_id)[: number + 1].count() > number


def arm_offers(*, rule_id: int, now: datetime, grace_s: float) -> tuple[ArmOffers, ...]:
    """What became of the offers of an experiment's rule, per arm and hardware class."""
    rows = _tallied(Offer.objects.filter(rule_id=rule_id), ("arm", "hardware_class"), now, grace_s)
    return tuple(
        ArmOffers(row["arm"], OfferCounts(**{name: value for name, value in row.items() if name != "arm"}))
        for row in rows
    )


def offer_records(*, rule_id: int, phase: int | None = None, limit: int = 1_000) -> tuple[OfferRecord, ...]:
    """Single offers of a rule, in order of time: what the figures of `offers` are made of."""
    rows = Offer.objects.filter(rule_id=rule_id).order_by("offered_at", "id")
    if phase is not None:
        rows = rows.filter(phase=phase)
    return tuple(
        OfferRecord(
            device_id=row.device_id,
            phase=row.phase,
            bucket=row.bucket,
            hardware_class=row.hardware_class,
            digest=row.digest,
            offered_at=row.offered_at,
            outcome=row.outcome,
            failure=row.failure,
            outcome_at=row.outcome_at,
        )
        for row in rows[:limit]
    )


def assignment(*, device_id: str, model: str) -> AssignmentRecord | None:
    """What a device was last told for a model, with every step of the decision; None if it never asked."""
    found = assignments(device_id=device_id, model=model)
    return found[0] if found else None


def assignments(*, device_id: str, model: str = "") -> tuple[AssignmentRecord, ...]:
    """What a device was last told, for each model that it asked about."""
    rows = Assignment.objects.filter(device_id=device_id).select_related("version", "rule").order_by("model_id")
    if model:
        rows = rows.filter(model_id=model)
    return tuple(
        AssignmentRecord(
            device_id=row.device_id,
            model=row.model_id,
            version="" if row.version is None else row.version.label,
            version_id=row.version_id,
            digest=row.digest,
            rollout="" if row.rule is None else row.rule.source,
            arm=row.arm,
            phase=row.phase,
            revision=row.revision,
            decision=row.decision,
            because=row.because,
            trace=tuple(Step(**step) for step in row.trace),
            decided_at=row.decided_at,
        )
        for row in rows
    )


def announced_models() -> tuple[str, ...]:
    """The models that have a plan notice."""
    return tuple(PlanRevision.objects.order_by("pk").values_list("pk", flat=True))


def device_policy(value: Mapping[str, object]) -> DevicePolicy:
    """A stored policy; the defaults where it holds nothing."""
    try:
        return DevicePolicy.parse(Fields(value, "device_policy"))
    except WireError:
        # `create_rule` is given what `domain.plan` has validated; a row that another release wrote may know more.
        return DevicePolicy()


def rule_record(row: Rule) -> RuleRecord:
    """A row as a value. For this app only."""
    return RuleRecord(
        id=row.pk,
        source=row.source,
        model=row.model_id,
        version_id=row.version_id,
        state=RuleState(row.state),
        seed=row.seed,
        phase=row.phase,
        phase_started_at=row.phase_started_at,
        treated_end=row.treated_end,
        control_start=row.control_start,
        hardware_classes=tuple(row.hardware_classes),
        groups=tuple(row.groups),
        filter=row.filter,
        arms=tuple(
            ArmRecord(arm.name, arm.version_id, BucketRange(arm.start, arm.end), arm.is_dropped)
            for arm in row.arms.all()
        ),
        device_policy=row.device_policy,
        parameters=row.parameters,
        allow_delta=row.allow_delta,
        delta_wait_s=row.delta_wait_s,
        jitter_s=row.jitter_s,
        priority=row.priority,
        created_at=row.created_at,
        ended_at=row.ended_at,
        class_ends=row.class_ends,
        listed=tuple(row.listed),
        denied=_denied(row),
        holdback=Holdback(row.holdback_start, row.holdback_s),
        delivery=parse_delivery(Fields(row.delivery, "delivery"), "delivery"),
        together=tuple(row.together),
        shadow=None if row.shadow is None else ShadowBudget.parse(Fields(row.shadow, "shadow")),
        expected=row.expected,
    )


def _reach(row: Rule) -> Reach:
    return Reach(row.treated_end, row.control_start, row.class_ends, frozenset(row.listed))


def _denied(row: Rule) -> Denied:
    return Denied(frozenset(row.denied.get("devices", ())), frozenset(row.denied.get("groups", ())))


def _counted(rows: QuerySet[Offer], now: datetime, grace_s: float) -> tuple[OfferCounts, ...]:
    return tuple(OfferCounts(**row) for row in _tallied(rows, ("hardware_class",), now, grace_s))


def _tallied(rows: QuerySet[Offer], keys: tuple[str, ...], now: datetime, grace_s: float) -> Iterable[dict[str, Any]]:
    before = now - timedelta(seconds=grace_s)
    unseen = Q(device__last_seen_at__isnull=True) | Q(device__last_seen_at__lt=before)
    pending = Q(outcome=Offer.Outcome.PENDING)
    found: Iterable[dict[str, Any]] = (
        rows.values(*keys)
        .annotate(
            offered=Count("id"),
            committed=Count("id", filter=Q(outcome=Offer.Outcome.COMMITTED)),
            failed=Count("id", filter=Q(outcome=Offer.Outcome.FAILED)),
            rolled_back=Count("id", filter=Q(outcome=Offer.Outcome.ROLLED_BACK)),
            pending=Count("id", filter=pending),
            silent=Count("id", filter=pending & Q(offered_at__lt=before) & unseen),
        )
        .order_by(*keys)
    )
    return found
