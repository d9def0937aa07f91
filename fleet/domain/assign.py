"""What one device should run for one model, and why. Evaluated when a device asks; stores and signs nothing.

Order: the device itself, then each running or held rule (highest priority, then newest), then the baselines (the
newest completed rule first). Within a rule: filters, what failed here before, a variant that fits, and only then the
bucket, so that eligibility never depends on the dice. In an experiment a device takes part only if every arm has a
variant that fits it: otherwise the arms would hold different devices, and comparing them would say nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from device_client.wire.bucketing import BUCKETS, bucket
from device_client.wire.director import Arm, Decision
from fleet.domain.facts import Build, DeviceFacts, Rule, RuleState
from fleet.domain.matching import match

_EPOCH = datetime.fromtimestamp(0, tz=UTC)


@dataclass(frozen=True)
class Step:
    """One step of the decision, as `explain` shows it. `outcome` is one of: taken, passed, refused."""

    subject: str
    outcome: str
    sentence: str


@dataclass(frozen=True)
class Assignment:
    """The answer. `rule` and `build` are set with NOW (and `rule` with LATER); `reason` is a sentence for people."""

    model: str
    decision: Decision
    reason: str
    trace: tuple[Step, ...]
    arm: Arm = Arm.BASELINE
    arm_name: str = ""  # of the experiment that assigned it
    rule: Rule | None = None
    build: Build | None = None
    bucket: int | None = None
    until: datetime | None = None

    @property
    def version(self) -> str:
        """The label of the assigned version; empty without one."""
        return self.rule.version if self.rule is not None and self.build is not None else ""

    @property
    def phase(self) -> int:
        """The phase of the rule that assigned it."""
        return 0 if self.rule is None else self.rule.phase


def assign(facts: DeviceFacts, rules: Sequence[Rule], *, model: str, now: datetime, stop: str = "") -> Assignment:
    """Decide for `model`; rules of other models are ignored. With a `stop` in force, devices keep what they run."""
    found = _by_rules(facts, rules, model, now)
    running = facts.models.get(model)
    if not stop or found.build is None or (running is not None and running.digest == found.build.digest):
        return found
    reason = f"{stop}: the device keeps what it runs"
    return Assignment(model, Decision.NOTHING, reason, (*found.trace, Step(model, "refused", reason)))


def _by_rules(facts: DeviceFacts, rules: Sequence[Rule], model: str, now: datetime) -> Assignment:
    trace: list[Step] = []
    if not facts.is_active:
        trace.append(Step(facts.device_id, "refused", "the device is revoked or in quarantine"))
        return Assignment(model, Decision.NOTHING, trace[-1].sentence, tuple(trace))
    own = [rule for rule in rules if rule.model == model]
    ramping = [rule for rule in own if rule.state in (RuleState.RUNNING, RuleState.HELD)]
    for rule in sorted(ramping, key=lambda rule: (-rule.priority, -rule.created_at.timestamp(), -rule.id)):
        answer = _ramping(facts, rule, trace, now)
        if answer is not None:
            return answer
    baselines = [rule for rule in own if rule.state is RuleState.COMPLETED]
    for rule in sorted(baselines, key=lambda rule: (rule.ended_at or _EPOCH, rule.id), reverse=True):
        build = _eligible(facts, rule, trace)
        if build is not None:
            reason = f"version {rule.version} is the baseline since {rule.source} completed"
            trace.append(Step(rule.source, "taken", reason))
            return Assignment(model, Decision.NOW, reason, tuple(trace), rule=rule, build=build)
    refused = [step.sentence for step in trace if step.outcome == "refused"]
    reason = f"no rule gives this device a version: {'; '.join(refused)}" if refused else "no rule for this model yet"
    return Assignment(model, Decision.NOTHING, reason, tuple(trace))


def _ramping(facts: DeviceFacts, rule: Rule, trace: list[Step], now: datetime) -> Assignment | None:
    """What a running or held rule says to this device; None lets the next rule speak."""
    if rule.arms:
        return _in_experiment(facts, rule, trace)
    build = _eligible(facts, rule, trace)
    if build is None:
        return None
    place = bucket(rule.seed, facts.device_id)
    if place >= rule.treated_end:
        side = "in its control" if place >= rule.control_start else "not reached yet"
        sentence = f"bucket {place} is outside [0, {rule.treated_end}) of phase {rule.phase + 1}: {side}"
        trace.append(Step(rule.source, "passed", sentence))
        return None
    if rule.state is RuleState.HELD and not _runs(facts, rule):
        trace.append(Step(rule.source, "passed", "the rollout is held and takes no new devices"))
        return None
    if rule.starts_at is not None and now < rule.starts_at:
        reason = f"{rule.source} starts at {rule.starts_at.isoformat(timespec='seconds')}"
        trace.append(Step(rule.source, "taken", reason))
        return Assignment(
            rule.model, Decision.LATER, reason, tuple(trace), rule=rule, bucket=place, until=rule.starts_at
        )
    share = f"{100 * rule.treated_end / BUCKETS:g}%"
    reason = f"{rule.source} treats {share} in phase {rule.phase + 1}: bucket {place} is in [0, {rule.treated_end})"
    trace.append(Step(rule.source, "taken", reason))
    return Assignment(
        rule.model, Decision.NOW, reason, tuple(trace), arm=Arm.TREATED, rule=rule, build=build, bucket=place
    )


def _in_experiment(facts: DeviceFacts, rule: Rule, trace: list[Step]) -> Assignment | None:
    """The arm of this device; None lets the next rule speak."""
    objection = _outside(facts, rule) or _unfit_arm(facts, rule)
    if objection:
        trace.append(Step(rule.source, "refused", f"{rule.source}: {objection}"))
        return None
    place = bucket(rule.seed, facts.device_id)
    arm = rule.arm_at(place)
    if arm is None:
        trace.append(Step(rule.source, "passed", f"bucket {place} is in no arm of {rule.source}"))
        return None
    own = rule.for_arm(arm)
    build = _eligible(facts, own, trace)
    if build is None:
        return None
    if rule.state is RuleState.HELD and not _runs(facts, own):
        trace.append(Step(rule.source, "passed", f"{rule.source} is decided and takes no new devices"))
        return None
    reason = (
        f"{rule.source} puts bucket {place} into its arm {arm.name}, "
        f"[{arm.buckets.start}, {arm.buckets.end}): version {arm.version}"
    )
    trace.append(Step(rule.source, "taken", reason))
    return Assignment(
        rule.model,
        Decision.NOW,
        reason,
        tuple(trace),
        arm=Arm.TREATED,
        arm_name=arm.name,
        rule=own,
        build=build,
        bucket=place,
    )


def _unfit_arm(facts: DeviceFacts, rule: Rule) -> str:
    """Why some arm could not serve this device; empty if all could."""
    running = facts.models.get(rule.model)
    for arm in rule.arms:
        found = match(
            arm.builds, facts.hardware_class, facts.capabilities, None if running is None else running.contract
        )
        if found.build is None:
            why = found.why_not or "has no variants"
            return f"arm {arm.name} (version {arm.version}) {why}, and a device takes part only if every arm fits"
    return ""


def _eligible(facts: DeviceFacts, rule: Rule, trace: list[Step]) -> Build | None:
    """The build that this device would get from `rule`; a refusal leaves a step."""
    build, objection = _build_for(facts, rule)
    if build is None:
        trace.append(Step(rule.source, "refused", f"{rule.source} (version {rule.version}): {objection}"))
    return build


def _build_for(facts: DeviceFacts, rule: Rule) -> tuple[Build | None, str]:
    """The build, or None and what stands against it."""
    objection = _outside(facts, rule)
    if objection:
        return None, objection
    running = facts.models.get(rule.model)
    # One refused build counts for the version: a failure is for people to look at, not a reason to try another build.
    denied = running is not None and any(
        item.rollout == rule.source and item.digest in rule.digests for item in running.denied
    )
    if denied:
        return None, "failed on this device before"
    found = match(rule.builds, facts.hardware_class, facts.capabilities, None if running is None else running.contract)
    return found.build, found.why_not or "has no variants"


def _outside(facts: DeviceFacts, rule: Rule) -> str:
    """Why the device is none of those that the rule is for; empty if it is one."""
    if rule.hardware_classes and facts.hardware_class not in rule.hardware_classes:
        return f"is for {_listed(rule.hardware_classes)}, the device is {facts.hardware_class}"
    if rule.groups and not rule.groups & facts.groups:
        return f"is for the groups {_listed(rule.groups)}, the device is in {_listed(facts.groups) or 'none'}"
    if rule.filter is not None and not rule.filter.matches(facts):
        return f"its filter does not match: {rule.filter.objection(facts)}"
    return ""


def _runs(facts: DeviceFacts, rule: Rule) -> bool:
    running = facts.models.get(rule.model)
    return running is not None and running.digest in rule.digests


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
