from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.wire.bucketing import BUCKETS, BucketRange, bucket
from device_client.wire.director import Arm, Decision
from device_client.wire.messages import Denied, Present
from device_client.wire.shadow import ShadowBudget
from device_client.wire.states import UpdateState
from fleet.domain.assign import HELD_POLL, Assignment, Ruleset, assign, decide_all
from fleet.domain.calendar import Calendar, Hours
from fleet.domain.conditions import Conditions
from fleet.domain.delivery import Delivery
from fleet.domain.facts import Build, DeviceFacts, Holdback, Rule, RuleArm, RuleState
from fleet.domain.facts import Denied as DeniedDevices
from tests.domain.releases import CAPABLE, MODEL, NOW, build, device, rule

BASE = rule(1, "1", state=RuleState.COMPLETED)


def told(facts: DeviceFacts, *rules: Rule) -> str:
    """The version that a device is told, or the decision where it is told none."""
    answer = assign(facts, rules, model=MODEL, now=NOW)
    return answer.version or answer.decision.value


def test_assign__no_rules__nothing() -> None:
    answer = assign(device(), [], model=MODEL, now=NOW)
    assert (answer.decision, answer.reason) == (Decision.NOTHING, "no rule for this model yet")


def test_assign__bucket_in_range__treated() -> None:
    answer = assign(device(), [BASE, rule(2, "2")], model=MODEL, now=NOW)
    assert (answer.version, answer.arm, answer.decision) == ("2", Arm.TREATED, Decision.NOW)
    assert answer.bucket == bucket("seed", "cam-01")
    assert "treats 100% in phase 1" in answer.reason


def test_assign__range_ends_at_the_bucket__not_treated() -> None:
    """Half-open: [0, bucket) does not hold the bucket."""
    place = bucket("seed", "cam-01")
    assert told(device(), BASE, rule(2, "2", treated_end=place)) == "1"
    assert told(device(), BASE, rule(2, "2", treated_end=place + 1)) == "2"


def test_assign__outside_the_range__newest_completed_baseline() -> None:
    newer = rule(3, "3", state=RuleState.COMPLETED)
    answer = assign(device(), [BASE, rule(5, "5", treated_end=0), newer], model=MODEL, now=NOW)
    assert (answer.version, answer.arm) == ("3", Arm.BASELINE)
    assert [step.outcome for step in answer.trace] == ["passed", "taken"]


def test_assign__newest_baseline_does_not_match__older_one() -> None:
    newer = rule(3, "3", state=RuleState.COMPLETED, hardware_classes=frozenset({"edge-max"}))
    answer = assign(device(), [newer, BASE], model=MODEL, now=NOW)
    assert answer.version == "1"
    assert "is for edge-max, the device is edge-std" in answer.trace[0].sentence


def test_assign__rule_withdrawn__falls_to_the_baseline() -> None:
    bad = rule(2, "2", state=RuleState.WITHDRAWN)
    assert told(device(runs=bad.builds[0]), BASE, bad) == "1"


def test_assign__first_install_withdrawn__nothing() -> None:
    assert told(device(), rule(2, "2", state=RuleState.WITHDRAWN)) == "nothing"


def test_assign__rule_held__keeps_those_who_run_it_and_takes_no_new_ones() -> None:
    held = rule(2, "2", state=RuleState.HELD)
    assert told(device(runs=held.builds[0]), BASE, held) == "2"
    assert told(device(runs=BASE.builds[0]), BASE, held) == "1"


@pytest.mark.parametrize("state", [UpdateState.DOWNLOADING, UpdateState.HALTED], ids=lambda state: state.value)
@pytest.mark.parametrize("base", [(BASE,), ()], ids=["update", "first install"])
def test_assign__stopped_while_a_device_downloads__later_so_that_it_keeps_the_bytes(
    state: UpdateState, base: tuple[Rule, ...]
) -> None:
    """A stop comes before the conductor holds the rollout, and stays while it does."""
    facts = device(runs=BASE.builds[0])
    facts = replace(facts, models={MODEL: replace(facts.models[MODEL], state=state)})
    for rollout in (rule(2, "2"), rule(2, "2", state=RuleState.HELD)):
        answer = assign(facts, [*base, rollout], model=MODEL, now=NOW, stop="everything was stopped by anna")
        assert (answer.decision, answer.until) == (Decision.LATER, NOW + HELD_POLL)
        assert answer.version in {"", "1"}


@pytest.mark.parametrize("state", [UpdateState.DOWNLOADING, UpdateState.HALTED], ids=lambda state: state.value)
def test_assign__rule_held_while_a_device_downloads__later_so_that_it_keeps_the_bytes(state: UpdateState) -> None:
    held = rule(2, "2", state=RuleState.HELD)
    facts = device(runs=BASE.builds[0])
    facts = replace(facts, models={MODEL: replace(facts.models[MODEL], state=state)})
    answer = assign(facts, [BASE, held], model=MODEL, now=NOW)
    assert (answer.decision, answer.version, answer.until) == (Decision.LATER, "1", NOW + HELD_POLL)
    assert answer.waits_for == held
    reverted = assign(facts, [BASE, replace(held, state=RuleState.WITHDRAWN)], model=MODEL, now=NOW)
    assert (reverted.decision, reverted.version) == (Decision.NOW, "1")


def test_assign__rule_starts_later__later_with_the_moment() -> None:
    starts = NOW + timedelta(hours=1)
    answer = assign(device(), [BASE, rule(2, "2", starts_at=starts)], model=MODEL, now=NOW)
    assert (answer.decision, answer.until, answer.build) == (Decision.LATER, starts, BASE.builds[0])
    alone = assign(device(), [rule(2, "2", starts_at=starts)], model=MODEL, now=NOW)
    assert (alone.decision, alone.until, alone.build) == (Decision.LATER, starts, None)
    assert told(device(), BASE, rule(2, "2", starts_at=NOW)) == "2"


def test_assign__failed_under_this_rollout__baseline() -> None:
    new = rule(2, "2")
    denied = (Denied(new.builds[0].digest, new.source),)
    answer = assign(device(denied=denied), [BASE, new], model=MODEL, now=NOW)
    assert answer.version == "1"
    assert "failed on this device before" in answer.trace[0].sentence


def test_assign__one_variant_failed__no_other_of_the_same_rollout() -> None:
    builds = (build("2", "onnx-fp32-any"), build("2", "onnx-int8-any"))
    new = rule(2, "2", builds=builds)
    assert told(device(denied=(Denied(builds[0].digest, new.source),)), BASE, new) == "1"


def test_assign__failed_under_an_earlier_rollout__new_rollout_may_try() -> None:
    new = rule(2, "2")
    assert told(device(denied=(Denied(new.builds[0].digest, "r-other"),)), BASE, new) == "2"


def test_assign__baseline_failed_here__next_baseline() -> None:
    newer = rule(3, "3", state=RuleState.COMPLETED)
    assert told(device(denied=(Denied(newer.builds[0].digest, newer.source),)), BASE, newer) == "1"


def test_assign__inactive_device__nothing() -> None:
    assert told(device(is_active=False), BASE) == "nothing"


def test_assign__nothing_fits__reason_names_every_refusal() -> None:
    answer = assign(device(capabilities=replace(CAPABLE, runtimes={})), [BASE], model=MODEL, now=NOW)
    assert answer.decision is Decision.NOTHING
    assert "needs the runtime onnx" in answer.reason


def test_assign__group_filter__matches_members_only() -> None:
    canary = rule(2, "2", groups=frozenset({"canaries"}))
    assert told(device(), BASE, canary) == "1"
    assert told(device(groups=frozenset({"canaries", "dock"})), BASE, canary) == "2"


def test_assign__two_running_rules__higher_priority_then_newer() -> None:
    assert told(device(), rule(2, "2", priority=1), rule(3, "3")) == "2"
    assert told(device(), rule(2, "2"), rule(3, "3")) == "3"


def test_assign__rule_of_another_model__ignored() -> None:
    assert told(device(), replace(BASE, model="vision.faces")) == "nothing"


def test_assign__version_without_builds__refused_with_reason() -> None:
    answer = assign(device(), [rule(2, "2", builds=())], model=MODEL, now=NOW)
    assert "has no variants" in answer.reason


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{2,20}", fullmatch=True),
    seed=st.text(min_size=1, max_size=20),
    ends=st.lists(st.integers(0, BUCKETS), min_size=2, max_size=5).map(sorted),
)
def test_phases__growing_ranges__who_was_treated_stays_treated(name: str, seed: str, ends: list[int]) -> None:
    arms = [
        assign(device(name), [BASE, rule(2, "2", seed=seed, phase=index, treated_end=end)], model=MODEL, now=NOW).arm
        for index, end in enumerate(ends)
    ]
    first = arms.index(Arm.TREATED) if Arm.TREATED in arms else len(arms)
    assert all(arm is Arm.TREATED for arm in arms[first:])


@given(st.permutations([BASE, rule(2, "2", treated_end=400_000), rule(3, "3", state=RuleState.COMPLETED)]))
def test_assign__any_order_of_rules__same_answer(rules: list[Rule]) -> None:
    answer = assign(device("cam-07"), rules, model=MODEL, now=NOW)
    ordered = assign(device("cam-07"), sorted(rules, key=lambda item: item.id), model=MODEL, now=NOW)
    assert (answer, answer.trace) == (ordered, ordered.trace)


@given(
    states=st.lists(st.sampled_from(list(RuleState)), max_size=5),
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{2,20}", fullmatch=True),
    denied_of=st.integers(1, 5),
)
def test_assign__whatever_the_rules__never_offers_what_is_denied_or_withdrawn(
    states: list[RuleState], name: str, denied_of: int
) -> None:
    rules = [rule(number, str(number), state=state) for number, state in enumerate(states, start=1)]
    denied = tuple(Denied(item.builds[0].digest, item.source) for item in rules if item.id == denied_of)
    answer = assign(device(name, denied=denied), rules, model=MODEL, now=NOW)
    if answer.rule is not None:
        assert answer.rule.id != denied_of
        assert answer.rule.state is not RuleState.WITHDRAWN
    assert answer.trace or not rules or answer.decision is Decision.NOTHING


@pytest.mark.parametrize("state", list(RuleState))
def test_assign__every_rule_state__is_decided(state: RuleState) -> None:
    expected = {"running": "2", "held": "1", "completed": "2", "withdrawn": "1"}
    assert told(device(), BASE, rule(2, "2", state=state)) == expected[state.value]


# ---------------------------------------------------------------- arms of an experiment


def in_arms(*, candidate: tuple[Build, ...] | None = None, state: RuleState = RuleState.RUNNING) -> Rule:
    """A quarter on version 2, half on version 1, a quarter in no arm."""
    return replace(
        rule(9, "1", state=state),
        arms=(
            RuleArm("candidate", "2", 2, (build("2"),) if candidate is None else candidate, BucketRange(0, 250_000)),
            RuleArm("control", "1", 1, (build("1"),), BucketRange(500_000, BUCKETS)),
            RuleArm("paused", "3", 3, (build("3"),), BucketRange(BUCKETS, BUCKETS)),
        ),
    )


@given(st.from_regex(r"[a-z0-9][a-z0-9-]{2,20}", fullmatch=True))
def test_arms__any_device__gets_its_buckets_version_and_no_other(name: str) -> None:
    answer = assign(device(name), [BASE, in_arms()], model=MODEL, now=NOW)
    place = bucket("seed", name)
    expected = "candidate" if place < 250_000 else "control" if place >= 500_000 else ""
    assert answer.arm_name == expected
    assert answer.version == ("2" if expected == "candidate" else "1")
    assert answer.arm is (Arm.TREATED if expected else Arm.BASELINE)
    if expected:
        assert f"into its arm {expected}" in answer.reason


def test_arms__one_arm_has_no_build_for_the_device__takes_no_part_whatever_its_bucket() -> None:
    unfit = build("2", "onnx-int8-any")
    rules = [BASE, in_arms(candidate=(unfit,))]
    answers = [
        assign(
            device(f"cam-{number}", capabilities=replace(CAPABLE, precisions=("fp32",))), rules, model=MODEL, now=NOW
        )
        for number in range(40)
    ]
    assert {answer.arm_name for answer in answers} == {""}
    assert all("a device takes part only if every arm fits" in answer.trace[0].sentence for answer in answers)


def test_arms__decided__keeps_those_who_run_their_arm_and_takes_no_new_ones() -> None:
    held = in_arms(state=RuleState.HELD)
    name = next(f"cam-{number}" for number in range(99) if bucket("seed", f"cam-{number}") < 250_000)
    assert told(device(name, runs=build("2")), BASE, held) == "2"
    assert told(device(name, runs=build("1")), BASE, held) == "1"
    assert assign(device(name, runs=build("1")), [BASE, held], model=MODEL, now=NOW).arm_name == ""


def test_arms__the_arms_version_failed_here__baseline() -> None:
    running = in_arms()
    name = next(f"cam-{number}" for number in range(99) if bucket("seed", f"cam-{number}") < 250_000)
    denied = (Denied(build("2").digest, running.source),)
    assert told(device(name, denied=denied), BASE, running) == "1"


# ---------------------------------------------------------------- several rollouts, names, holdbacks


def test_assign__in_the_control_of_the_first_rule__no_rule_behind_it_may_treat() -> None:
    first = replace(rule(3, "3", treated_end=0, seed="a", priority=1), control_start=0)
    assert told(device(), BASE, first, rule(2, "2")) == "1"
    assert told(device(), BASE, replace(first, control_start=BUCKETS), rule(2, "2")) == "2"


def test_assign__outside_the_population_of_the_first__the_second_speaks() -> None:
    first = rule(3, "3", priority=1, hardware_classes=frozenset({"edge-max"}))
    assert told(device(), BASE, first, rule(2, "2")) == "2"


@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{2,20}", fullmatch=True),
    first=st.tuples(st.integers(0, BUCKETS), st.integers(0, BUCKETS)),
    second=st.tuples(st.integers(0, BUCKETS), st.integers(0, BUCKETS)),
)
def test_assign__two_rollouts__nobody_treated_by_one_is_the_others_control(
    name: str, first: tuple[int, int], second: tuple[int, int]
) -> None:
    """The arms of one rollout hold nobody whom a rollout before it has treated or compares."""
    upper = replace(rule(2, "2", seed="a", treated_end=first[0], priority=1), control_start=first[1])
    lower = replace(rule(3, "3", seed="b", treated_end=second[0]), control_start=second[1])
    answer = assign(device(name), [BASE, upper, lower], model=MODEL, now=NOW)
    place = bucket("a", name)
    claimed = place < first[0] or place >= first[1]
    if answer.version == "3":
        assert not claimed
    if claimed:
        assert answer.version == ("2" if place < first[0] else "1")


def test_assign__named_device__treated_whatever_its_bucket() -> None:
    named = replace(rule(2, "2", treated_end=0), listed=frozenset({"cam-01"}))
    answer = assign(device(), [BASE, named], model=MODEL, now=NOW)
    assert (answer.version, answer.arm) == ("2", Arm.TREATED)
    assert "names this device" in answer.reason
    assert told(device("cam-02"), BASE, named) == "1"


def test_assign__own_range_of_a_class__holds_for_that_class() -> None:
    by_class = replace(rule(2, "2", treated_end=0), class_ends={"edge-std": BUCKETS})
    assert told(device(), BASE, by_class) == "2"
    assert told(device(hardware_class="edge-max"), BASE, by_class) == "1"


@pytest.mark.parametrize(
    "denied", [DeniedDevices(devices=frozenset({"cam-01"})), DeniedDevices(groups=frozenset({"lab"}))]
)
def test_assign__on_the_deny_list__refused_with_reason(denied: DeniedDevices) -> None:
    kept_out = replace(rule(2, "2"), denied=denied, listed=frozenset({"cam-01"}))
    answer = assign(device(groups=frozenset({"lab"})), [BASE, kept_out], model=MODEL, now=NOW)
    assert answer.version == "1"
    assert "deny-list" in answer.trace[0].sentence


def test_assign__held_back__keeps_the_older_baseline_until_it_is_over() -> None:
    newer = replace(rule(3, "3", state=RuleState.COMPLETED), holdback=Holdback(0, for_s=60))
    answer = assign(device(), [BASE, newer], model=MODEL, now=NOW)
    assert answer.version == "1"
    assert "holds this device back" in answer.trace[0].sentence
    assert newer.ended_at is not None
    after = assign(device(), [BASE, newer], model=MODEL, now=newer.ended_at + timedelta(seconds=60))
    assert after.version == "3"
    assert told(device(), BASE, replace(newer, listed=frozenset({"cam-01"}))) == "3"


# ---------------------------------------------------------------- later

NIGHT = Calendar(frozenset(range(7)), (Hours(120, 240),), zone="UTC")


def test_assign__outside_the_window__later_and_the_baseline_meanwhile() -> None:
    at_night = replace(rule(2, "2"), delivery=Delivery(windows=NIGHT))
    answer = assign(device(), [BASE, at_night], model=MODEL, now=NOW)
    assert (answer.decision, answer.version, answer.arm) == (Decision.LATER, "1", Arm.BASELINE)
    assert answer.until == NOW.replace(hour=2) + timedelta(days=1)
    assert answer.waits_for is not None
    assert answer.waits_for.id == 2
    assert told(device(runs=at_night.builds[0]), BASE, at_night) == "2"  # what runs is not taken away


def test_assign__device_in_another_zone__its_own_night_counts() -> None:
    at_night = replace(rule(2, "2"), delivery=Delivery(windows=replace(NIGHT, zone="device")))
    awake = replace(device(), time_zone=ZoneInfo("Europe/Berlin"))
    asleep = replace(device(), time_zone=ZoneInfo("Pacific/Auckland"))  # 12:00 UTC is 01:00 there
    assert assign(awake, [at_night], model=MODEL, now=NOW).decision is Decision.LATER
    assert assign(asleep, [at_night], model=MODEL, now=NOW).until == NOW + timedelta(hours=1)
    assert assign(asleep, [at_night], model=MODEL, now=NOW + timedelta(hours=1)).decision is Decision.NOW


def test_assign__conditions_unmet__later_with_each_reason() -> None:
    careful = replace(rule(2, "2"), delivery=Delivery(conditions=Conditions(charging=True, idle=True, retry_s=60)))
    answer = assign(replace(device(), present=Present(charging=False)), [careful], model=MODEL, now=NOW)
    assert (answer.decision, answer.until) == (Decision.LATER, NOW + timedelta(seconds=60))
    assert "until it is charging and it is idle, which it does not tell" in answer.reason
    ready = replace(device(), present=Present(charging=True, idle=True))
    assert told(ready, careful) == "2"


def test_assign__coming_back_from_a_withdrawn_version__waits_for_no_window() -> None:
    base = replace(BASE, delivery=Delivery(windows=NIGHT))
    bad = rule(2, "2", state=RuleState.WITHDRAWN)
    assert told(device(runs=bad.builds[0]), base, bad) == "1"
    behind = assign(device(runs=rule(9, "9").builds[0]), [base, bad], model=MODEL, now=NOW)
    assert behind.decision is Decision.LATER


# ---------------------------------------------------------------- models that move together

OTHER = "vision.faces"
SET = frozenset({MODEL, OTHER})


def together(**rules: list[Rule]) -> list[Ruleset]:
    return [
        Ruleset.of([replace(item, model=name) for item in given], name)
        for name, given in {MODEL: rules["digits"], OTHER: rules["faces"]}.items()
    ]


def of_both(answers: dict[str, Assignment]) -> tuple[str, str]:
    return answers[MODEL].version, answers[OTHER].version


def test_together__both_reach_the_device__both_move() -> None:
    new = replace(rule(2, "2"), together=SET)
    assert of_both(decide_all(device(), together(digits=[BASE, new], faces=[BASE, new]), now=NOW)) == ("2", "2")


@pytest.mark.parametrize(
    "other",
    [
        replace(rule(3, "2", treated_end=0), together=SET),
        replace(rule(3, "2", builds=()), together=SET),
        replace(rule(3, "2", state=RuleState.WITHDRAWN), together=SET),
        rule(3, "2"),
    ],
)
def test_together__one_cannot__none_moves_and_both_say_why(other: Rule) -> None:
    new = replace(rule(2, "2"), together=SET)
    answers = decide_all(device(), together(digits=[BASE, new], faces=[BASE, other]), now=NOW)
    assert answers[MODEL].version == "1"
    assert any("moves together with vision.faces" in step.sentence for step in answers[MODEL].trace)
    if other.together:
        assert answers[OTHER].version == "1"


def test_together__device_without_the_other_model__gets_none() -> None:
    new = replace(rule(2, "2"), together=SET)
    answers = decide_all(device(), [Ruleset.of([BASE, new], MODEL)], now=NOW)
    assert answers[MODEL].version == "1"


def test_together__one_has_to_wait__the_other_waits_with_it() -> None:
    new = replace(rule(2, "2"), together=SET)
    at_night = replace(new, id=3, delivery=Delivery(windows=NIGHT))
    answers = decide_all(device(), together(digits=[BASE, new], faces=[BASE, at_night]), now=NOW)
    assert {answer.decision for answer in answers.values()} == {Decision.LATER}
    assert of_both(answers) == ("1", "1")
    assert answers[MODEL].until == answers[OTHER].until
    assert "waits for vision.faces" in answers[MODEL].reason


@given(
    ends=st.tuples(st.integers(0, BUCKETS), st.integers(0, BUCKETS)),
    states=st.tuples(st.sampled_from(list(RuleState)), st.sampled_from(list(RuleState))),
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{2,20}", fullmatch=True),
)
def test_together__whatever_the_rules__all_or_nothing(
    ends: tuple[int, int], states: tuple[RuleState, RuleState], name: str
) -> None:
    both = [
        [BASE, replace(rule(2 + index, "2", treated_end=ends[index], state=states[index]), together=SET)]
        for index in range(2)
    ]
    first, second = of_both(decide_all(device(name), together(digits=both[0], faces=both[1]), now=NOW))
    assert (first == "2") == (second == "2")


# ---------------------------------------------------------------- shadows


SHADOWS = replace(CAPABLE, shadow=True)


def in_shadow(*, state: RuleState = RuleState.RUNNING, is_dropped: bool = False) -> Rule:
    """Everybody runs version 2 in the shadow of version 1."""
    return replace(
        rule(9, "1", state=state),
        arms=(RuleArm("candidate", "2", 2, (build("2"),), BucketRange(0, BUCKETS), is_dropped),),
        shadow=ShadowBudget(),
    )


def test_shadow__device_that_can__is_served_the_baseline_and_told_of_it() -> None:
    answer = assign(device(capabilities=SHADOWS, runs=build("1")), [BASE, in_shadow()], model=MODEL, now=NOW)
    assert (answer.version, answer.arm) == ("1", Arm.BASELINE)
    assert answer.shadow is not None
    assert (answer.shadow.version, answer.shadow.arm_name) == ("2", "candidate")
    assert any("in the shadow of version 1" in step.sentence for step in answer.trace)


@pytest.mark.parametrize(
    ("facts", "asked", "why"),
    [
        (device(runs=build("1")), in_shadow(), "does not know what a shadow is"),
        (device(capabilities=SHADOWS), in_shadow(), "compares with version 1, which it does not run"),
        (device(capabilities=SHADOWS, runs=build("1")), in_shadow(state=RuleState.HELD), "shadows have ended"),
        (device(capabilities=SHADOWS, runs=build("1")), in_shadow(is_dropped=True), "was dropped"),
    ],
    ids=["an old client", "not the champion", "decided", "dropped"],
)
def test_shadow__device_that_is_not_to__is_told_nothing_of_it_and_why_is_kept(
    facts: DeviceFacts, asked: Rule, why: str
) -> None:
    answer = assign(facts, [BASE, asked], model=MODEL, now=NOW)
    assert (answer.version, answer.shadow) == ("1", None)
    assert any(why in step.sentence for step in answer.trace)
