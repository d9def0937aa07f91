"""What one device should run for one model, and why. Evaluated when a device asks; stores and signs nothing.

Order: the device itself, then each running or held rule (highest priority, then newest), then the baselines (the
newest completed rule first). Within a rule: population and deny-list, then the bucket, then what failed here before and
a variant that fits; whether a device is eligible never depends on the dice. A rule that treats a device or compares
others with it has claimed it: no rule behind it may touch it, so that the arms of two rollouts never mix. Where the
answer is "later", the device is given its baseline meanwhile. In an experiment a device takes part only if every arm
has a variant that fits it: otherwise the arms would hold different devices, and comparing them would say nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

from device_client.wire.bucketing import BUCKETS
from device_client.wire.director import Arm, Decision
from device_client.wire.messages import RunningModel
from device_client.wire.states import UpdateState
from fleet.domain.facts import Build, DeviceFacts, Rule, RuleArm, RuleState
from fleet.domain.filters.filter import Filter
from fleet.domain.matching import Match, match

_EPOCH = datetime.fromtimestamp(0, tz=UTC)
HELD_POLL = timedelta(hours=6)  # a resume and a revert are announced; this is for who has missed it
# Whoever is asked to wait in one of these keeps what it has downloaded.
_KEEPS_BYTES = frozenset({UpdateState.DOWNLOADING, UpdateState.HALTED})
# A sentence, or what makes it: a function and its arguments. Most traces are never read.
Sentence = str | tuple[object, ...]


@dataclass(frozen=True)
class Step:
    """One step of the decision, as `explain` shows it. `outcome` is one of: taken, passed, refused."""

    subject: str
    outcome: str
    sentence: str


@dataclass(frozen=True)
class Ruleset:
    """The rules of one model in the order in which they are asked. `recalled` are digests of withdrawn rules.

    `stop` is why no device may change what it runs; empty if nothing forbids it.
    """

    model: str
    ramping: tuple[Rule, ...]
    baselines: tuple[Rule, ...]
    recalled: frozenset[str]
    stop: str = ""

    @classmethod
    def of(
        cls, rules: Sequence[Rule], model: str, *, recalled: frozenset[str] = frozenset(), stop: str = ""
    ) -> "Ruleset":
        """Put `rules` in order; those of other models are left out. `recalled` adds digests nobody should run."""
        own = [rule for rule in rules if rule.model == model]
        ramping = [rule for rule in own if rule.state in (RuleState.RUNNING, RuleState.HELD)]
        baselines = [rule for rule in own if rule.state is RuleState.COMPLETED]
        offered = frozenset(
            build.digest
            for rule in (*ramping, *baselines)
            for builds in (rule.builds, *(arm.builds for arm in rule.arms if not arm.is_dropped))
            for build in builds
        )
        withdrawn = [rule.digests for rule in own if rule.state is RuleState.WITHDRAWN]
        withdrawn += [arm.digests for rule in ramping for arm in rule.arms if arm.is_dropped]
        return cls(
            model,
            tuple(sorted(ramping, key=lambda rule: (-rule.priority, -rule.created_at.timestamp(), -rule.id))),
            tuple(sorted(baselines, key=lambda rule: (rule.ended_at or _EPOCH, rule.id), reverse=True)),
            recalled.union(*withdrawn) - offered,
            stop,
        )


@dataclass(frozen=True)
class Assignment:
    """The answer. `rule` and `build` are what to run; with LATER they are the baseline, if there is one.

    `waits_for` is the rule that said later. `reason` is a sentence for people. `shadow` is what is to run beside it.
    """

    model: str
    decision: Decision
    reason: str
    marks: tuple[tuple[str, str, Sentence], ...] = field(default=(), compare=False, repr=False)
    arm: Arm = Arm.BASELINE
    arm_name: str = ""  # of the experiment that assigned it
    rule: Rule | None = None
    build: Build | None = None
    bucket: int | None = None
    until: datetime | None = None
    waits_for: Rule | None = None
    shadow: "Assignment | None" = None

    @cached_property
    def trace(self) -> tuple[Step, ...]:
        """Every step of the decision. Its sentences are made when somebody reads them."""
        return tuple(Step(subject, outcome, _said(sentence)) for subject, outcome, sentence in self.marks)

    @property
    def version(self) -> str:
        """The label of the assigned version; empty without one."""
        return self.rule.version if self.rule is not None and self.build is not None else ""

    @property
    def phase(self) -> int:
        """The phase of the rule that assigned it."""
        return 0 if self.rule is None else self.rule.phase


def assign(
    facts: DeviceFacts,
    rules: Sequence[Rule] | Ruleset,
    *,
    model: str,
    now: datetime,
    barred: frozenset[int] = frozenset(),
    stop: str = "",
) -> Assignment:
    """Decide for `model`; rules of other models are ignored, and so are those whose id is `barred`.

    With a `stop` in force, here or in the ruleset, devices keep what they run.
    """
    asked = _Asked(facts, rules if isinstance(rules, Ruleset) else Ruleset.of(rules, model), now, barred)
    if not facts.is_active:
        asked.note(facts.device_id, "refused", "the device is revoked or in quarantine")
        return asked.nothing()
    found = asked.ramping() or asked.baseline()
    if asked.shadow is not None and found.decision is Decision.NOW:
        found = replace(found, shadow=asked.shadow)
    reason = stop or asked.rules.stop
    if not reason or (found.build is not None and _runs_build(asked.running, found.build)):
        return found
    if found.build is None and found.decision is Decision.NOTHING:
        return found
    return asked.stopped(reason)


def postponed(
    answer: Assignment, facts: DeviceFacts, rules: Ruleset, *, sentence: str, until: datetime, now: datetime
) -> Assignment:
    """`answer`, which said now, turned into "later": the device keeps to its baseline until then."""
    asked = _Asked(facts, rules, now, frozenset())
    asked.marks += answer.marks[:-1]
    return asked.later(answer.rule, sentence, until, answer.bucket)


class _Asked:
    """One question on its way through the rules; notes its steps."""

    def __init__(self, facts: DeviceFacts, rules: Ruleset, now: datetime, barred: frozenset[int]) -> None:
        self.facts = facts
        self.rules = rules
        self.now = now
        self.barred = barred
        self.running = facts.models.get(rules.model)
        self.marks: list[tuple[str, str, Sentence]] = []
        self.shadow: Assignment | None = None

    def note(self, subject: str, outcome: str, sentence: Sentence) -> None:
        """One more step."""
        self.marks.append((subject, outcome, sentence))

    def ramping(self) -> Assignment | None:
        """What the running and held rules say; None lets the baselines speak. The loop that every check runs through."""
        facts, marks = self.facts, self.marks
        device_id, hardware_class = facts.device_id, facts.hardware_class
        encoded_id = device_id.encode()
        for rule in self.rules.ramping:
            if rule.is_selective:
                objection = _outside(facts, rule)
                if objection is not None:
                    marks.append((rule.source, "refused", (_refusal, rule, objection)))
                    continue
            place = rule.line.bucket(encoded_id)
            if rule.shadow is not None:
                self._in_shadow(rule, place)
                continue
            if rule.arms:
                answer = self._in_experiment(rule, place)
                if answer is not None:
                    return answer
                continue
            end = rule.class_ends.get(hardware_class, rule.treated_end) if rule.class_ends else rule.treated_end
            if place >= end and device_id not in rule.listed:
                marks.append((rule.source, "passed", (_unreached, rule, place, end)))
                if place >= rule.control_start:
                    return None
                continue
            if rule.id in self.barred:
                self._refuse(rule, (_incomplete, rule))
                return None
            build, objection = _build_for(facts, rule, self.running)
            if build is None:
                self._refuse(rule, objection or "")
                continue
            return self._treated(rule, build, place)
        return None

    def baseline(self) -> Assignment:
        """The newest completed rule that fits, or nothing with every reason."""
        found = self._fallback()
        if found is None:
            return self.nothing()
        rule, build = found
        if not self._returns() and not _runs(self.running, rule):
            wait = self._wait(rule)
            if wait is not None:
                self.note(rule.source, "taken", wait[0])
                return Assignment(rule.model, Decision.LATER, wait[0], tuple(self.marks), until=wait[1], waits_for=rule)
        reason = f"version {rule.version} is the baseline since {rule.source} completed"
        self.note(rule.source, "taken", reason)
        return Assignment(rule.model, Decision.NOW, reason, tuple(self.marks), rule=rule, build=build)

    def later(self, rule: Rule | None, sentence: str, until: datetime, place: int | None) -> Assignment:
        """Not now: `rule` would give its version at `until`, and the baseline holds meanwhile."""
        self.note("" if rule is None else rule.source, "taken", sentence)
        found = self._fallback()
        base, build = found if found is not None else (None, None)
        if base is not None:
            self.note(base.source, "passed", f"version {base.version}, the baseline, is for the meantime")
        return Assignment(
            self.rules.model,
            Decision.LATER,
            sentence,
            tuple(self.marks),
            rule=base,
            build=build,
            bucket=place,
            until=until,
            waits_for=rule,
        )

    def stopped(self, reason: str) -> Assignment:
        """No move in any direction, for a reason. What is downloaded is for when that is over."""
        sentence = f"{reason}: the device keeps what it runs"
        keeps = self.running is not None and self.running.state in _KEEPS_BYTES
        if keeps:
            sentence += " and what it has downloaded"
        self.note(self.rules.model, "refused", sentence)
        return Assignment(
            self.rules.model,
            Decision.LATER if keeps else Decision.NOTHING,
            sentence,
            tuple(self.marks),
            until=self.now + HELD_POLL if keeps else None,
        )

    def nothing(self) -> Assignment:
        """No version, because of everything that refused one."""
        refused = [_said(sentence) for _, outcome, sentence in self.marks if outcome == "refused"]
        if not self.facts.is_active:
            reason = refused[0]
        else:
            reason = (
                f"no rule gives this device a version: {'; '.join(refused)}"
                if refused
                else "no rule for this model yet"
            )
        return Assignment(self.rules.model, Decision.NOTHING, reason, tuple(self.marks))

    def _treated(self, rule: Rule, build: Build, place: int) -> Assignment | None:
        """A rule whose treated range this device is in: now, later, or nothing new while it is held."""
        runs = _runs(self.running, rule)
        if rule.state is RuleState.HELD and not runs:
            if self.running is not None and self.running.state in _KEEPS_BYTES:
                sentence = f"{rule.source} is held and takes no new devices; what is downloaded of version {rule.version} waits"
                return self.later(rule, sentence, self.now + HELD_POLL, place)
            self.note(rule.source, "passed", "the rollout is held and takes no new devices")
            return None
        wait = None if runs else self._wait(rule)
        if wait is not None:
            return self.later(rule, wait[0], wait[1], place)
        reason = _taken(self.facts, rule, place)
        self.note(rule.source, "taken", reason)
        return Assignment(
            rule.model,
            Decision.NOW,
            reason,
            tuple(self.marks),
            arm=Arm.TREATED,
            rule=rule,
            build=build,
            bucket=place,
        )

    def _in_experiment(self, rule: Rule, place: int) -> Assignment | None:
        """The arm of this device; None lets the next rule speak."""
        unfit = _unfit_arm(self.facts, rule, self.running)
        if unfit is not None:
            self.note(rule.source, "refused", (_joined, rule.source, unfit))
            return None
        arm = rule.arm_at(place)
        if arm is None:
            self.note(rule.source, "passed", f"bucket {place} is in no arm of {rule.source}")
            return None
        if arm.is_dropped:
            sentence = f"arm {arm.name} (version {arm.version}) of {rule.source} was dropped: it was harmful"
            self.note(rule.source, "passed", sentence)
            return None
        own = rule.for_arm(arm)
        build, objection = _build_for(self.facts, own, self.running)
        if build is None:
            self._refuse(own, objection or "")
            return None
        if rule.state is RuleState.HELD and not _runs(self.running, own):
            self.note(rule.source, "passed", f"{rule.source} is decided and takes no new devices")
            return None
        reason = (
            f"{rule.source} puts bucket {place} into its arm {arm.name}, "
            f"[{arm.buckets.start}, {arm.buckets.end}): version {arm.version}"
        )
        self.note(rule.source, "taken", reason)
        return Assignment(
            rule.model,
            Decision.NOW,
            reason,
            tuple(self.marks),
            arm=Arm.TREATED,
            arm_name=arm.name,
            rule=own,
            build=build,
            bucket=place,
        )

    def _in_shadow(self, rule: Rule, place: int) -> None:
        """What this device is to run beside what other rules give it; notes why, or why not."""
        arm = rule.arm_at(place)
        if arm is None or arm.version == rule.version:
            self.note(rule.source, "passed", f"bucket {place} runs no shadow of {rule.source}")
        elif arm.is_dropped:
            self.note(rule.source, "passed", f"the shadow {arm.name} of {rule.source} was dropped: it was harmful")
        elif not self.facts.capabilities.shadow:
            self.note(rule.source, "refused", f"{rule.source}: this device does not know what a shadow is")
        elif self.running is None or self.running.version != rule.version:
            self.note(
                rule.source, "passed", f"{rule.source} compares with version {rule.version}, which it does not run"
            )
        elif rule.state is RuleState.HELD:
            self.note(rule.source, "passed", f"{rule.source} is decided: shadows have ended")
        else:
            own = rule.for_arm(arm)
            build, objection = _build_for(self.facts, own, self.running)
            if build is None:
                self._refuse(own, objection or "")
                return
            reason = f"{rule.source} runs version {arm.version} ({arm.name}) in the shadow of version {rule.version}: bucket {place}"
            self.note(rule.source, "passed", reason)
            self.shadow = Assignment(
                rule.model,
                Decision.NOW,
                reason,
                arm=Arm.TREATED,
                arm_name=arm.name,
                rule=own,
                build=build,
                bucket=place,
            )

    def _wait(self, rule: Rule) -> tuple[str, datetime] | None:
        """Why this device must not take the version now, and when it may ask again."""
        now, delivery = self.now, rule.delivery
        if rule.starts_at is not None and now < rule.starts_at:
            return f"{rule.source} starts at {rule.starts_at.isoformat(timespec='seconds')}", rule.starts_at
        opens_at = None if delivery.windows is None else delivery.windows.opens_at(now, self.facts.time_zone)
        if opens_at is not None and delivery.windows is not None:
            shown = opens_at.isoformat(timespec="minutes")
            return f"{rule.source} may update {delivery.windows.shown()}; that is next at {shown}", opens_at
        unmet = () if delivery.conditions.is_free else delivery.conditions.unmet(self.facts.present)
        if unmet:
            sentence = f"{rule.source} waits on this device until {' and '.join(unmet)}"
            return sentence, now + timedelta(seconds=delivery.conditions.retry_s)
        return None

    def _fallback(self) -> tuple[Rule, Build] | None:
        """The newest completed rule that this device belongs to, and the build that fits."""
        for rule in self.rules.baselines:
            objection = _outside(self.facts, rule)
            if objection is None and rule.id in self.barred:
                self._refuse(rule, (_incomplete, rule))
                continue
            if objection is None and self._is_held_back(rule):
                self.note(rule.source, "passed", f"{rule.source} holds this device back from version {rule.version}")
                continue
            build = None
            if objection is None:
                build, objection = _build_for(self.facts, rule, self.running)
            if build is not None:
                return rule, build
            self._refuse(rule, objection or "")
        return None

    def _is_held_back(self, rule: Rule) -> bool:
        if rule.holdback.start >= BUCKETS or self.facts.device_id in rule.listed:
            return False
        ended_at = rule.ended_at or _EPOCH
        if rule.holdback.for_s and self.now >= ended_at + timedelta(seconds=rule.holdback.for_s):
            return False
        return rule.line.bucket(self.facts.device_id.encode()) >= rule.holdback.start

    def _returns(self) -> bool:
        """Whether it comes back from a version that was withdrawn, which no window and no condition may delay."""
        return self.running is not None and self.running.digest in self.rules.recalled

    def _refuse(self, rule: Rule, objection: Sentence) -> None:
        self.note(rule.source, "refused", (_refusal, rule, objection))


def decide_all(facts: DeviceFacts, rules: Sequence[Ruleset], *, now: datetime) -> dict[str, Assignment]:
    """The answers for several models of one device, where those that move together do so on this device, or stay.

    A rule whose `together` names models is barred for this device unless each of them is given a version by a rule of
    the same set, or runs it already. Barring can only spread, so this ends after at most as many rounds as rules.
    """
    barred: frozenset[int] = frozenset()
    while True:
        made = {one.model: assign(facts, one, model=one.model, now=now, barred=barred) for one in rules}
        broken = {
            rule.id
            for answer in made.values()
            if (rule := answer.waits_for or answer.rule) is not None
            and rule.together
            and not all(_moves(made.get(name), rule) for name in rule.together)
        }
        if broken <= barred:
            return wait_together(made, facts, rules, now=now)
        barred |= broken


def wait_together(
    made: Mapping[str, Assignment], facts: DeviceFacts, rules: Sequence[Ruleset], *, now: datetime
) -> dict[str, Assignment]:
    """The answers, where those of a set wait if one of them has to."""
    found = dict(made)
    for waiting in made.values():
        rule = waiting.waits_for
        if rule is None or waiting.until is None or not rule.together:
            continue
        for one in rules:
            answer = made[one.model]
            mate = answer.rule
            if answer.decision is not Decision.NOW or mate is None or mate.together != rule.together:
                continue
            if not _runs(facts.models.get(one.model), mate):
                sentence = f"waits for {rule.model}, with which it moves: {waiting.reason}"
                found[one.model] = postponed(answer, facts, one, sentence=sentence, until=waiting.until, now=now)
    return found


def _moves(answer: Assignment | None, rule: Rule) -> bool:
    """Whether a model of the rule's set moves with it on this device."""
    other = None if answer is None else answer.waits_for or answer.rule
    return other is not None and other.together == rule.together


def _incomplete(rule: Rule) -> str:
    others = ", ".join(sorted(rule.together - {rule.model}))
    return f"moves together with {others}, which this device does not get with it"


def _refusal(rule: Rule, objection: Sentence) -> str:
    return f"{rule.source} (version {rule.version}): {_said(objection)}"


def _unreached(rule: Rule, place: int, end: int) -> str:
    side = "in its control" if place >= rule.control_start else "not reached yet"
    return f"bucket {place} is outside [0, {end}) of phase {rule.phase + 1}: {side}"


def _taken(facts: DeviceFacts, rule: Rule, place: int) -> str:
    end = rule.reach.end_of(facts.hardware_class)
    if place >= end:
        return f"{rule.source} names this device in phase {rule.phase + 1}"
    share = f"{100 * end / BUCKETS:g}%"
    return f"{rule.source} treats {share} in phase {rule.phase + 1}: bucket {place} is in [0, {end})"


def _outside(facts: DeviceFacts, rule: Rule) -> Sentence | None:
    """Why the device is not among those that the rule is for; None if it is."""
    if rule.hardware_classes and facts.hardware_class not in rule.hardware_classes:
        return _of_another_class, facts, rule
    if rule.groups and not rule.groups & facts.groups:
        return _of_other_groups, facts, rule
    denied = rule.denied
    if facts.device_id in denied.devices or (denied.groups and denied.groups & facts.groups):
        return "its deny-list names this device or a group of it"
    if rule.filter is not None and not rule.filter.matches(facts):
        return _unfiltered, facts, rule.filter
    return None


def _of_another_class(facts: DeviceFacts, rule: Rule) -> str:
    return f"is for {_listed(rule.hardware_classes)}, the device is {facts.hardware_class}"


def _of_other_groups(facts: DeviceFacts, rule: Rule) -> str:
    return f"is for the groups {_listed(rule.groups)}, the device is in {_listed(facts.groups) or 'none'}"


def _unfiltered(facts: DeviceFacts, chosen: Filter) -> str:
    return f"its filter does not match: {chosen.objection(facts)}"


def _build_for(facts: DeviceFacts, rule: Rule, running: RunningModel | None) -> tuple[Build | None, Sentence | None]:
    """The build, or None and what stands against it."""
    # One refused build counts for the version: a failure is for people to look at, not a reason to try another build.
    if running is not None and any(
        item.rollout == rule.source and item.digest in rule.digests for item in running.denied
    ):
        return None, "failed on this device before"
    found = match(rule.builds, facts.hardware_class, facts.capabilities, None if running is None else running.contract)
    return found.build, (_unfit, found)


def _unfit(found: Match) -> str:
    return found.why_not or "has no variants"


def _unfit_arm(facts: DeviceFacts, rule: Rule, running: RunningModel | None) -> Sentence | None:
    """Why some arm could not serve this device; None if all could."""
    for arm in rule.arms:
        if arm.is_dropped:  # what it would have given is nobody's any more, and may be revoked
            continue
        found = match(
            arm.builds, facts.hardware_class, facts.capabilities, None if running is None else running.contract
        )
        if found.build is None:
            return _arm_unfit, arm, found
    return None


def _arm_unfit(arm: RuleArm, found: Match) -> str:
    return f"arm {arm.name} (version {arm.version}) {_unfit(found)}, and a device takes part only if every arm fits"


def _joined(subject: str, sentence: Sentence) -> str:
    return f"{subject}: {_said(sentence)}"


def _runs(running: RunningModel | None, rule: Rule) -> bool:
    return running is not None and running.digest in rule.digests


def _runs_build(running: RunningModel | None, build: Build) -> bool:
    return running is not None and running.digest == build.digest


def _said(sentence: Sentence) -> str:
    if isinstance(sentence, str):
        return sentence
    make, *given = sentence
    return str(make(*given)) if callable(make) else ""


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
