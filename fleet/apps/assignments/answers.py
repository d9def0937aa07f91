"""The answer to a device's check, for every model that it asked about.

Reads what the device said, decides by `fleet.domain.assign`, writes the first offer of a rule and the assignment where
it changed, and says what is to be signed. It does not sign, and it never looks at the clock or at a blob's bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final

from django.db import IntegrityError, transaction

from device_client.wire import names
from device_client.wire.bucketing import BUCKETS, bucket
from device_client.wire.director import Answer, Arm, Assigned, Binding, Decision, DeltaOffer
from device_client.wire.messages import Check, RunningModel
from device_client.wire.states import UpdateState
from fleet.apps.assignments import selectors
from fleet.apps.assignments.models import Assignment, Offer, Rule
from fleet.apps.assignments.plans import PlanCache, RulesOfModel
from fleet.apps.assignments.records import CheckAnswer
from fleet.apps.devices import selectors as devices
from fleet.apps.registry import selectors as registry
from fleet.apps.registry.records import DeltaRecord
from fleet.apps.trust.records import DirectorTarget
from fleet.domain import assign as domain
from fleet.domain import delta_plan
from fleet.domain.calendar import ZONE_ATTRIBUTE, known_zone
from fleet.domain.delta_sizes import SMALL_BYTES
from fleet.domain.errors import ForbiddenError, NotFoundError
from fleet.domain.facts import DeviceFacts
from fleet.domain.facts import Rule as RuleFacts
from fleet.domain.pacing import admit

POLL_INTERVAL_S: Final = 21_600  # six hours: when edits of groups and attributes take effect at the latest
DELTA_POLL_SHARE: Final = 0.2  # of the wait for a patch: how soon a device that was asked to wait asks again
MIN_DELTA_POLL_S: Final = 1.0
MAX_BECAUSE_CHARS: Final = 512
MAX_TRACE_STEPS: Final = 32

_ARRIVED: Final = frozenset({UpdateState.IDLE, UpdateState.COMMITTED})


def answer_check(*, device_id: str, check: Check, now: datetime, plans: PlanCache | None = None) -> CheckAnswer:
    """What this device is to be told. Raises `NotFoundError` or `ForbiddenError` for a device that gets no answer.

    Models that the registry does not know get no answer either: a device may ask for what is yet to be created. `plans`
    saves reading rules and versions again for the next check.
    """
    known = plans or PlanCache()
    try:
        return _answer(device_id, check, known, now)
    except IntegrityError:
        # Another director answered an earlier check of the same device for the first time, at this very moment.
        return _answer(device_id, check, known, now)


@transaction.atomic
def _answer(device_id: str, check: Check, plans: PlanCache, now: datetime) -> CheckAnswer:
    facts = _facts(device_id, check)
    known = plans.of([running.model for running in check.models], now)
    every = _decided(facts, known, now)
    answers: dict[str, Answer] = {}
    targets: list[DirectorTarget] = []
    tickets: list[str] = []
    for running in sorted(check.models, key=lambda item: item.model):
        plan = known.get(running.model)
        if plan is None:
            continue
        assigned = every[running.model]
        patches, until = _patches(assigned, running, check, plan, now)
        decided = assigned if until is None else _wait_for_patch(assigned, until)
        # An arm's devices count from their assignment: waiting for a patch would make one arm look smaller.
        _offer(facts, assigned if assigned.arm_name else decided, running, now)
        revision = _remember(facts, decided, now)
        made, blobs = _targets(decided, revision, patches, plan)
        targets += made
        tickets += blobs
        if decided.shadow is not None and until is None:
            made, blobs = _shadow(facts, decided.shadow, running, check, plan, revision, now)
            targets += made
            tickets += blobs
        answers[running.model] = Answer(
            decision=decided.decision,
            because=decided.reason[:MAX_BECAUSE_CHARS],
            plan_key=plan.plan_key,
            until=None if decided.until is None else int(decided.until.timestamp()),
        )
    binding = Binding(
        nonce=check.nonce, issued_at=int(now.timestamp()), poll_interval_s=POLL_INTERVAL_S, answers=answers
    )
    return CheckAnswer(binding=binding, targets=tuple(targets), tickets_for=tuple(dict.fromkeys(tickets)))


def _shadow(  # noqa: PLR0917 - one call above
    facts: DeviceFacts,
    shadow: domain.Assignment,
    running: RunningModel,
    check: Check,
    plan: RulesOfModel,
    revision: int,
    now: datetime,
) -> tuple[list[DirectorTarget], list[str]]:
    """What is to run beside what is served: an offer like any other, and never what the device is assigned."""
    _offer(facts, shadow, running, now)
    patches, until = _patches(shadow, running, check, plan, now)
    return ([], []) if until is not None else _targets(shadow, revision, patches, plan)


def _facts(device_id: str, check: Check) -> DeviceFacts:
    brief = devices.briefs([device_id]).get(device_id)
    if brief is None:
        raise NotFoundError("device_unknown", f"no device {device_id!r:.80}")
    if not brief.is_active:
        raise ForbiddenError("device_not_active", f"device {device_id} is revoked or in quarantine")
    return DeviceFacts(
        device_id=device_id,
        hardware_class=brief.hardware_class,
        capabilities=check.capabilities,
        groups=brief.groups,
        attributes={**check.attributes, **brief.given},
        models={running.model: running for running in check.models},
        time_zone=known_zone({**check.attributes, **brief.given}.get(ZONE_ATTRIBUTE, "")),
        present=check.present,
    )


def _decided(facts: DeviceFacts, known: Mapping[str, RulesOfModel], now: datetime) -> Mapping[str, domain.Assignment]:
    """The domain's answers, those that the pacing turns into "later" among them."""
    rules = [plan.rules for plan in known.values()]
    made = domain.decide_all(facts, rules, now=now)
    paced = {model: _paced(answer, facts, known[model], now) for model, answer in made.items()}
    return domain.wait_together(paced, facts, rules, now=now)


def _paced(decided: domain.Assignment, facts: DeviceFacts, plan: RulesOfModel, now: datetime) -> domain.Assignment:
    """The answer, or "later" where the rule takes no more devices at this moment.

    Who was offered the version keeps the offer. Directors that ask about the same rule at once take turns, so that a
    cap is a cap.
    """
    rule, build = decided.rule, decided.build
    if rule is None or build is None or decided.arm is not Arm.TREATED or rule.delivery.pacing.is_free:
        return decided
    running = facts.models.get(decided.model)
    if running is not None and running.digest in rule.digests:
        return decided
    if Offer.objects.filter(device_id=facts.device_id, rule_id=rule.id).exists():
        return decided
    Rule.objects.select_for_update().get(pk=rule.id)
    pacing = rule.delivery.pacing
    seen = selectors.traffic(
        rule_id=rule.id, expected=plan.records[rule.id].expected, silent_after_s=pacing.silent_after_s, now=now
    )
    wait = admit(pacing, seen, _spread(rule, facts.device_id, now))
    if wait is None:
        return decided
    until = now + timedelta(seconds=wait.after_s)
    sentence = f"{rule.source} takes no more devices at this moment: {wait.sentence}"
    return domain.postponed(decided, facts, plan.rules, sentence=sentence, until=until, now=now)


def _spread(rule: RuleFacts, device_id: str, now: datetime) -> float:
    """Where a device that has to wait stands among the others, anew each minute; in [0, 1)."""
    return bucket(f"{rule.seed}:{int(now.timestamp()) // 60}", device_id) / BUCKETS


def _patches(
    decided: domain.Assignment, running: RunningModel, check: Check, plan: RulesOfModel, now: datetime
) -> tuple[Sequence[DeltaRecord], datetime | None]:
    """The patches that this device can use, the smallest first, and until when it should wait for one that is being made.

    It waits for a second candidate, too: the smallest one is known only then.
    """
    rule, build = decided.rule, decided.build
    if rule is None or build is None or not rule.allow_delta or running.digest == build.digest:
        return (), None
    old, new = running.weights_sha256, build.manifest.weights.sha256
    if not old or old == new or not check.capabilities.codecs:
        return (), None
    ready = [delta for delta in registry.ready_deltas(old, new) if delta.codec in check.capabilities.codecs]
    deadline = plan.patch_deadline(rule)
    if decided.arm is not Arm.TREATED or deadline is None or now >= deadline:
        return ready, None
    is_small = build.manifest.weights.length <= SMALL_BYTES
    usable = delta_plan.worthwhile(delta_plan.applicable(check.capabilities.codecs), is_small=is_small)
    if not registry.awaited_codecs(old, new, version_id=rule.version_id) & {codec.value for codec in usable}:
        return ready, None
    poll_s = max(MIN_DELTA_POLL_S, DELTA_POLL_SHARE * plan.patch_wait_s(rule))
    return (), min(deadline, now + timedelta(seconds=poll_s))


def _wait_for_patch(decided: domain.Assignment, until: datetime) -> domain.Assignment:
    rule = decided.rule
    subject = "" if rule is None else rule.source
    sentence = "a patch from what this device runs is being built; asking again is cheaper than the whole file"
    return domain.Assignment(
        model=decided.model,
        decision=Decision.LATER,
        reason=sentence,
        marks=(*decided.marks, (subject, "taken", sentence)),
        arm=decided.arm,
        arm_name=decided.arm_name,
        rule=rule,
        bucket=decided.bucket,
        until=until,
    )


def _remember(facts: DeviceFacts, decided: domain.Assignment, now: datetime) -> int:
    """Store the assignment where it is new; returns its revision."""
    rule, build = decided.rule, decided.build
    row = Assignment.objects.select_for_update().filter(device_id=facts.device_id, model_id=decided.model).first()
    if row is None:
        row = Assignment(device_id=facts.device_id, model_id=decided.model, revision=1, decided_at=now)
        told_before = None
    else:
        told_before = (row.version_id, row.digest, row.rule_id)
    if decided.decision is not Decision.LATER or build is not None:
        row.version_id = None if build is None or rule is None else rule.version_id
        row.digest = "" if build is None else build.digest
        row.rule_id = None if build is None or rule is None else rule.id
    told_now = (row.version_id, row.digest, row.rule_id)
    because = decided.reason[:MAX_BECAUSE_CHARS]
    if told_before == told_now and (row.decision, row.because, row.phase) == (
        decided.decision.value,
        because,
        decided.phase,
    ):
        return row.revision
    if told_before is not None and told_before != told_now:
        row.revision += 1
    row.arm, row.phase, row.decision, row.because = decided.arm.value, decided.phase, decided.decision.value, because
    row.trace = [asdict(step) for step in decided.trace[:MAX_TRACE_STEPS]]
    row.decided_at = now
    row.save()
    return row.revision


def _offer(facts: DeviceFacts, decided: domain.Assignment, running: RunningModel, now: datetime) -> None:
    """Write the first offer of a rule; settle one whose version the device attests although its report is still away."""
    rule, build = decided.rule, decided.build
    if rule is None or build is None or decided.arm is not Arm.TREATED:
        return
    row, _ = Offer.objects.get_or_create(
        device_id=facts.device_id,
        rule_id=rule.id,
        defaults={
            "phase": rule.phase,
            "bucket": decided.bucket or 0,
            "arm": decided.arm_name,
            "hardware_class": facts.hardware_class,
            "digest": build.digest,
            "offered_at": now,
        },
    )
    if row.outcome == Offer.Outcome.PENDING and running.digest == build.digest and running.state in _ARRIVED:
        Offer.objects.filter(pk=row.pk, outcome=Offer.Outcome.PENDING).update(
            outcome=Offer.Outcome.COMMITTED, outcome_at=now
        )


def _targets(
    decided: domain.Assignment, revision: int, patches: Iterable[DeltaRecord], plan: RulesOfModel
) -> tuple[list[DirectorTarget], list[str]]:
    """The director's targets for one answer, and the blobs that it takes to install it; nothing without a build."""
    rule, build = decided.rule, decided.build
    if rule is None or build is None:
        return [], []
    manifest = build.manifest
    assigned = Assigned(
        model=rule.model,
        version=rule.version,
        revision=revision,
        rollout=rule.source,
        arm=decided.arm,
        phase=rule.phase,
        reason=decided.reason[:MAX_BECAUSE_CHARS],
        policy=rule.device_policy,
        parameters=rule.parameters,
        shadow=rule.shadow if decided.arm_name else None,
    )
    path = names.ManifestPath(rule.model, rule.version, manifest.variant)
    targets = [DirectorTarget(str(path), len(plan.manifests[build.digest]), build.digest, assigned.encode())]
    blobs = [build.digest, *(file.sha256 for file in manifest.files)]
    for patch in patches:
        if patch.patch_sha256 is None or patch.patch_bytes is None:
            continue
        offer = DeltaOffer(patch.old_sha256, patch.new_sha256, patch.codec)
        target = names.delta_target(patch.old_sha256, patch.new_sha256, patch.codec)
        targets.append(DirectorTarget(target, patch.patch_bytes, patch.patch_sha256, offer.encode()))
        blobs.append(patch.patch_sha256)
    return targets, blobs
