"""Rules, and what devices are told because of them.

A rule costs a constant number of statements and one notice, whatever the fleet's size. Rows about single devices are
written only when a device asks (`answer_check`) or reports (`record_reports`). The decision itself is
`fleet.domain.assign`; signing is `trust`'s; fetching is by tickets that the caller adds.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import F

from device_client.wire import topics
from device_client.wire.bucketing import BUCKETS, share_range
from device_client.wire.messages import StateReport
from device_client.wire.shadow import ShadowBudget
from device_client.wire.states import FailureCode, UpdateState
from device_client.wire.topics import Down
from fleet.apps.assignments.answers import answer_check
from fleet.apps.assignments.models import Offer, PlanRevision, Rule, RuleArm
from fleet.apps.assignments.notices import plan_notice
from fleet.apps.assignments.plans import PlanCache
from fleet.apps.assignments.records import ArmRecord
from fleet.apps.assignments.selectors import announced_rules, rule_record, stop_of
from fleet.apps.jobs import services as jobs
from fleet.apps.outbox import services as outbox
from fleet.apps.registry import selectors as registry
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError
from fleet.domain.facts import RuleState
from fleet.domain.phases import MAX_LISTED
from fleet.domain.policy import RolloutPolicy
from fleet.domain.reach import Reach

__all__ = [
    "PlanCache",
    "announce",
    "answer_check",
    "create_rule",
    "end_holdback",
    "record_reports",
    "repeat_notice",
    "set_rule",
]

HOLDBACK_JOB_KIND: Final = "holdback-end"

# Failures after the swap: the device had served the version before it went back.
_AFTER_SWAP: Final = frozenset({FailureCode.LOAD, FailureCode.PROBATION, FailureCode.CRASH_LOOP})


@transaction.atomic
def create_rule(
    *,
    source: str,
    model: str,
    version_id: int,
    seed: str,
    policy: RolloutPolicy,
    now: datetime,
    metrics: Mapping[str, str] | None = None,
    arms: Sequence[ArmRecord] = (),
    shadow: ShadowBudget | None = None,
) -> int:
    """Store a rule that touches nobody yet (held, phase 0, no range); returns its id. `set_rule` sets it going.

    Of the policy it keeps whom the rule is for and how devices carry it out; phases and gates stay with `source`.
    `metrics` are what is counted for it; None means every metric that is built in. `arms` are an experiment's; they
    never change, but may be dropped; with a `shadow` budget they only run beside what is served.
    """
    denied = policy.denied
    row = Rule.objects.create(
        source=source,
        model_id=model,
        version_id=version_id,
        state=RuleState.HELD.value,
        seed=seed,
        hardware_classes=sorted(policy.hardware_classes),
        groups=sorted(policy.groups),
        filter="" if policy.filter is None else policy.filter.text,
        device_policy=policy.device.encode(),
        parameters=dict(policy.parameters),
        allow_delta=policy.allow_delta,
        delta_wait_s=policy.delta_wait_s,
        jitter_s=policy.jitter_s,
        metrics=None if metrics is None else dict(metrics),
        priority=policy.priority,
        denied={"devices": sorted(denied.devices), "groups": sorted(denied.groups)},
        holdback_start=BUCKETS - share_range(policy.holdback_share).end,
        holdback_s=policy.holdback_s,
        delivery=policy.delivery.encode(),
        together=sorted(policy.together),
        shadow=None if shadow is None else shadow.encode(),
        created_at=now,
    )
    RuleArm.objects.bulk_create(
        RuleArm(rule=row, name=arm.name, version_id=arm.version_id, start=arm.buckets.start, end=arm.buckets.end)
        for arm in arms
    )
    return row.pk


@transaction.atomic
def set_rule(
    *,
    rule_id: int,
    state: RuleState | None = None,
    phase: int | None = None,
    treated_end: int | None = None,
    control_start: int | None = None,
    reach: Reach | None = None,
    expected: int | None = None,
    now: datetime,
) -> None:
    """Change a rule and tell the fleet: a new revision of the model's plan notice waits in the outbox.

    Devices that the rule names are outside every range, so each of them gets a message of its own: at most 1,000.
    `reach` says more than the two ranges. A new phase begins `now`. Completed and withdrawn rules end `now`; a withdrawn
    one cannot come back. Raises `ConflictError` for a rule that would offer while its model is stopped.
    """
    row = Rule.objects.select_for_update().filter(pk=rule_id).first()
    if row is None:
        raise NotFoundError("rule_unknown", f"no rule {rule_id}")
    if row.state == RuleState.WITHDRAWN and state not in (None, RuleState.WITHDRAWN):
        raise InvalidInputError("rule_withdrawn", f"rule {rule_id} is withdrawn, got {state} for it")
    if phase is not None and phase != row.phase:
        row.phase, row.phase_started_at = phase, now
    stop = stop_of(row.model_id) if state is RuleState.RUNNING else ""
    if stop:
        raise ConflictError("stopped", f"expected no stop in force, got one: {stop}")
    named_before = frozenset(row.listed)
    _set_reach(row, reach, treated_end, control_start)
    if expected is not None:
        row.expected = expected
    was = row.state
    if state is not None and state.value != row.state:
        row.state = state.value
        if state in (RuleState.COMPLETED, RuleState.WITHDRAWN):
            row.ended_at = now
        if state is RuleState.COMPLETED and row.holdback_start < BUCKETS and row.holdback_s > 0:
            ends_at = now + timedelta(seconds=row.holdback_s)
            jobs.enqueue(
                kind=HOLDBACK_JOB_KIND, key=str(rule_id), payload={"rule": rule_id}, now=now, not_before_at=ends_at
            )
    if row.state == RuleState.RUNNING and row.phase_started_at is None:
        row.phase_started_at = now
    row.save()
    _announce(row.model_id, now)
    _poke(named_before | frozenset(row.listed) if row.state != was else named_before ^ frozenset(row.listed), now)


def _set_reach(row: Rule, reach: Reach | None, treated_end: int | None, control_start: int | None) -> None:
    """Refuses ranges outside the buckets, and more names than may be told one by one."""
    if reach is not None:
        treated_end, control_start = reach.treated_end, reach.control_start
        row.class_ends, row.listed = dict(reach.class_ends), sorted(reach.listed)
    if treated_end is not None:
        row.treated_end = treated_end
    if control_start is not None:
        row.control_start = control_start
    if len(row.listed) > MAX_LISTED:
        raise InvalidInputError("rule_listed", f"expected at most {MAX_LISTED} named devices, got {len(row.listed)}")
    ends = (row.treated_end, row.control_start, *row.class_ends.values())
    if not all(0 <= end <= BUCKETS for end in ends):
        shown = ", ".join(str(end) for end in ends)
        raise InvalidInputError("rule_range", f"expected ranges within 0..{BUCKETS}, got {shown}")


@transaction.atomic
def drop_arms(*, rule_id: int, names: Collection[str], now: datetime) -> None:
    """Give nobody the versions of these arms any more: their devices, called by the notice, fall to the baseline."""
    RuleArm.objects.filter(rule_id=rule_id, name__in=names).update(is_dropped=True)
    _announce(Rule.objects.get(pk=rule_id).model_id, now)


def lock_rules(*, model: str) -> None:
    """Inside a transaction: whoever else wants to make or change rules of this model waits for its end."""
    PlanRevision.objects.get_or_create(model_id=model)
    PlanRevision.objects.select_for_update().get(pk=model)


def expect(*, rule_id: int, expected: int) -> None:
    """How many devices the rule's present phase treats, by a new count; no device is told of it."""
    Rule.objects.filter(pk=rule_id).update(expected=expected)


@transaction.atomic
def repeat_notice(*, model: str, now: datetime) -> None:
    """Send the model's plan notice as it stands, with the revision that it has: devices that know it do nothing."""
    _publish_notice(model, now)


@transaction.atomic
def record_reports(*, reports: Sequence[tuple[str, StateReport]], now: datetime) -> None:
    """Move the outcomes of the offers that these reports are about. Reports of one boot count in the order of `seq`.

    Call it for new reports only. A report that settles nothing, or is about no offer of ours, changes nothing, and so
    does a success that does not attest a build of the offered version. Costs a constant number of statements.
    """
    settling = [(device_id, report) for device_id, report in reports if report.rollout and _outcome(report) is not None]
    if not settling:
        return
    found = (
        Offer.objects.select_for_update(of=("self",))
        .filter(
            device_id__in={device_id for device_id, _ in settling},
            rule__source__in={report.rollout for _, report in settling},
        )
        .select_related("rule")
        .order_by("pk")
    )
    rows = {(row.device_id, row.rule.source): row for row in found}
    offered = _offered_versions(rows.values())
    versions = registry.versions_by_id(set(offered.values()))
    changed: dict[int, Offer] = {}
    for device_id, report in settling:
        row, outcome = rows.get((device_id, report.rollout)), _outcome(report)
        if (
            row is None
            or outcome is None
            or (row.outcome_boot == report.key.boot and report.key.seq <= row.outcome_seq)
        ):
            continue
        if outcome is Offer.Outcome.COMMITTED and report.active_digest not in {
            variant.digest for variant in versions[offered[row.pk]].variants
        }:
            continue
        row.outcome, row.outcome_at = outcome.value, now
        row.failure = "" if report.failure is None else report.failure.value
        row.outcome_boot, row.outcome_seq = report.key.boot, report.key.seq
        changed[row.pk] = row
    if changed:
        Offer.objects.bulk_create(
            [changed[pk] for pk in sorted(changed)],
            update_conflicts=True,
            unique_fields=["device", "rule"],
            update_fields=["outcome", "outcome_at", "failure", "outcome_boot", "outcome_seq"],
        )


def _offered_versions(rows: Collection[Offer]) -> dict[int, int]:
    """The version that each of these offers is about: its arm's in an experiment."""
    in_arms = {row.rule_id for row in rows if row.arm}
    arms = RuleArm.objects.filter(rule_id__in=in_arms) if in_arms else ()
    of_arm = {(arm.rule_id, arm.name): arm.version_id for arm in arms}
    return {row.pk: of_arm.get((row.rule_id, row.arm), row.rule.version_id) for row in rows}


def _outcome(report: StateReport) -> Offer.Outcome | None:
    """What a report says of its offer, or None while the update goes on."""
    if report.state is UpdateState.COMMITTED:
        return Offer.Outcome.COMMITTED
    if report.state is UpdateState.ROLLED_BACK:
        served = report.failure is None or report.failure in _AFTER_SWAP
        return Offer.Outcome.ROLLED_BACK if served else Offer.Outcome.FAILED
    if report.state in (UpdateState.IDLE, UpdateState.HALTED) and report.failure is not None:
        return Offer.Outcome.FAILED
    return None


@transaction.atomic
def announce(*, model: str, now: datetime) -> None:
    """Tell the fleet that something about a model's plan has changed."""
    _announce(model, now)


def end_holdback(*, rule_id: int, now: datetime) -> None:
    """Call the devices that a completed rule kept from its version until now.

    The rule lets them in by itself; without a call they would ask at their next poll, hours later.
    """
    row = Rule.objects.filter(pk=rule_id, state=RuleState.COMPLETED.value).first()
    if row is not None:
        announce(model=row.model_id, now=now)


def _announce(model: str, now: datetime) -> None:
    PlanRevision.objects.get_or_create(model_id=model)
    PlanRevision.objects.filter(pk=model).update(revision=F("revision") + 1)
    _publish_notice(model, now)


def _poke(device_ids: Collection[str], now: datetime) -> None:
    """Make these devices ask at once; one that is not connected asks when it is."""
    if device_ids:
        wanted = [topics.down(device_id, Down.POKE) for device_id in sorted(device_ids)]
        outbox.enqueue_each(topics=wanted, payload=b"", now=now)


def _publish_notice(model: str, now: datetime) -> None:
    revision = PlanRevision.objects.get(pk=model).revision
    rules = [rule_record(row) for row in announced_rules(model)]
    notice = plan_notice(revision, rules, is_stopped=bool(stop_of(model)))
    outbox.enqueue(topic=topics.plan(registry.model(model).plan_key), payload=notice.encode(), retain=True, now=now)
