"""What an experiment finds, and what is decided from it."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_analysis import analyse
from fleet.domain.experiment_decision import Action, Snapshot, Verdict, decide
from fleet.domain.experiment_findings import ArmOffer, ArmRow, Facts, Finding, Role
from fleet.domain.experiment_states import ExperimentState
from fleet.domain.measurements import Total
from fleet.domain.stats.anytime import p_value
from fleet.domain.stats.sequences import radius
from fleet.domain.strata import ALL_CLASSES
from tests.domain.experiments import DOCUMENT, facts, rows, spec

STARTED = datetime(2026, 5, 4, 12, tzinfo=UTC)
SIZES = {"candidate": 20, "control": 40}
GOOD = {"accuracy": 0.8, "slow": 0.0, "errors": 0.0}
BETTER = {**GOOD, "accuracy": 0.95}
WORSE = {**GOOD, "accuracy": 0.55}
SLOWER = {**BETTER, "slow": 0.4}


def look(seen: Facts, asked: ExperimentSpec | None = None, at_s: float = 30.0, stop: str = "") -> Snapshot:
    return Snapshot(
        state=ExperimentState.RUNNING,
        spec=asked or spec(),
        facts=seen,
        started_at=STARTED,
        ends_at=STARTED + timedelta(seconds=120),
        stop=stop,
    )


@pytest.mark.parametrize("df", [4, 10, 100, 1e6])
@pytest.mark.parametrize("alpha", [0.025, 0.001])
def test_p_value__at_the_edge_of_the_interval__is_its_alpha(df: float, alpha: float) -> None:
    edge = radius(alpha, df=df, size=5, planned=8, planned_df=2 * df)
    assert p_value(edge, alpha=alpha, df=df, size=5, planned=8, planned_df=2 * df) == pytest.approx(alpha)
    assert p_value(-edge, alpha=alpha, df=df, size=5, planned=8, planned_df=2 * df) == 1.0


def test_analyse__better_arm__is_better_with_its_interval_and_guardrails_pass() -> None:
    found = analyse(spec(), facts(SIZES, {"candidate": BETTER, "control": GOOD}))
    (accuracy,) = found.of("candidate", Role.SUCCESS)
    assert accuracy.finding is Finding.BETTER
    assert accuracy.lower is not None
    assert accuracy.upper is not None
    assert 0 < accuracy.lower < 0.15 < accuracy.upper
    assert "points higher than the control's" in accuracy.sentence
    assert [item.finding for item in found.of("candidate", Role.GUARDRAIL)] == [Finding.PASS, Finding.PASS]


def test_analyse__silent_fleet__waits_and_says_what_is_missing() -> None:
    found = analyse(spec(), Facts({("candidate", "edge-std"): 20, ("control", "edge-std"): 40}))
    assert {item.finding for item in found.comparisons} == {Finding.WAIT}
    assert "needs 4 and 8" in found.comparisons[0].sentence


def test_analyse__one_busy_device_lies__does_not_carry_its_arm() -> None:
    honest = facts(SIZES, {"candidate": GOOD, "control": GOOD})
    liar = replace(honest.rows[0], numerator=1_000_000, denominator=1_000_000)
    found = analyse(spec(), replace(honest, rows=(liar, *honest.rows[1:])))
    (accuracy,) = found.of("candidate", Role.SUCCESS)
    assert accuracy.finding is Finding.WAIT


def test_analyse__arms_of_other_sizes_than_meant__are_not_comparable() -> None:
    lopsided = facts({"candidate": 80, "control": 20}, {"candidate": BETTER, "control": GOOD})
    intent = decide(look(lopsided), STARTED + timedelta(seconds=30))
    assert (intent.action, intent.verdict) == (Action.STOP, Verdict.MISMATCH)
    assert "20 in control, 80 in candidate" in intent.sentence


def test_analyse__arm_of_weight_zero__counts_in_no_share_and_no_comparison() -> None:
    arms = [*DOCUMENT["arms"], {"name": "paused", "version": "3", "weight": 0}]
    found = analyse(spec(arms=arms), facts(SIZES, {"candidate": BETTER, "control": GOOD}))
    assert not found.assigned.rejected
    assert found.assigned.p_once == pytest.approx(1.0)
    assert {item.arm for item in found.comparisons} == {"candidate"}


def test_analyse__many_arms_and_metrics__are_adjusted_by_holm() -> None:
    arms = [*DOCUMENT["arms"], *({"name": f"t{number}", "version": "3"} for number in range(4))]
    sizes = {"control": 40, "candidate": 20, **{f"t{number}": 20 for number in range(4)}}
    found = analyse(spec(arms=arms, share=1.0), facts(sizes, dict.fromkeys(sizes, GOOD) | {"candidate": BETTER}))
    (accuracy,) = found.of("candidate", Role.SUCCESS)
    assert accuracy.p is not None
    assert accuracy.p_adjusted == pytest.approx(min(1.0, 5 * accuracy.p))


def test_analyse__several_classes__each_is_judged_and_together_they_are_weighted_by_the_plan() -> None:
    dice = random.Random(3)
    shares = {("candidate", "a"): 0.9, ("control", "a"): 0.8, ("candidate", "b"): 0.6, ("control", "b"): 0.5}
    seen = [
        replace(row, hardware_class=name, device_id=f"{name}-{row.device_id}")
        for (arm, name), share in shares.items()
        for row in rows(arm, 20 if name == "a" else 40, {"accuracy": share}, dice=dice)
    ]
    planned = {(arm, name): 20 if name == "a" else 40 for arm, name in shares}
    found = analyse(spec(guardrails={}), Facts(planned, rows=tuple(seen))).of("candidate", Role.SUCCESS)
    by_name = {item.stratum: item for item in found}
    assert set(by_name) == {ALL_CLASSES, "a", "b"}
    a, b, both = (by_name[name].value or 0.0 for name in ("a", "b", ALL_CLASSES))
    assert both == pytest.approx((40 * a + 80 * b) / 120)


# ---------------------------------------------------------------- decisions


def test_decide__winner__ships_after_the_minimum_and_not_before() -> None:
    seen = facts(SIZES, {"candidate": BETTER, "control": GOOD})
    early = decide(look(seen), STARTED + timedelta(seconds=5))
    assert (early.action, early.verdict) == (Action.WAIT, None)
    intent = decide(look(seen), STARTED + timedelta(seconds=11))
    assert (intent.action, intent.verdict, intent.winner) == (Action.DECIDE, Verdict.SHIP, "candidate")
    assert intent.sentence.startswith("candidate wins: BETTER: accuracy")
    assert intent.evidence["comparisons"]


@pytest.mark.parametrize("shares", [WORSE, SLOWER])
def test_decide__success_metric_or_guardrail_much_worse__stops_for_harm(shares: dict[str, float]) -> None:
    intent = decide(look(facts(SIZES, {"candidate": shares, "control": GOOD})), STARTED)
    assert (intent.action, intent.verdict) == (Action.STOP, Verdict.HARM)


def test_decide__installs_fail__stops_for_harm() -> None:
    good = facts(SIZES, {"candidate": BETTER, "control": GOOD})
    failed = (ArmOffer("candidate", "edge-std", 20, committed=5, failed=15), good.offers[1])
    intent = decide(look(replace(good, offers=failed)), STARTED)
    assert (intent.action, intent.verdict) == (Action.STOP, Verdict.HARM)
    assert "15 of 20 installs failed" in intent.sentence


def test_decide__better_but_a_guardrail_is_open__waits_then_ends_without_a_winner() -> None:
    seen = facts(SIZES, {"candidate": {**BETTER, "slow": 0.1}, "control": {**GOOD, "slow": 0.05}}, n=60)
    assert decide(look(seen), STARTED + timedelta(seconds=60)).action is Action.WAIT
    intent = decide(look(seen), STARTED + timedelta(seconds=120))
    assert (intent.action, intent.verdict, intent.winner) == (Action.DECIDE, Verdict.INCONCLUSIVE, "")
    assert "the share of inferences slower than 50 ms" in intent.sentence


def test_decide__devices_of_one_arm_fall_silent__no_winner() -> None:
    """Those that report look better; those that do not are missing from the shares."""
    seen = facts({"candidate": 40, "control": 80}, {"candidate": BETTER, "control": GOOD})
    speaking = tuple(row for row in seen.rows if row.arm == "control" or int(row.device_id.split("-")[1]) < 5)
    intent = decide(look(replace(seen, rows=speaking)), STARTED + timedelta(seconds=60))
    assert (intent.action, intent.verdict) == (Action.WAIT, None)
    assert "reporting do not fall" in intent.sentence


def test_decide__no_success_metric__wins_by_its_guardrails() -> None:
    intent = decide(
        look(facts(SIZES, {"candidate": GOOD, "control": GOOD}), spec(success={})), STARTED + timedelta(seconds=20)
    )
    assert (intent.verdict, intent.winner) == (Verdict.SHIP, "candidate")


def test_decide__several_ship__the_one_with_the_larger_effect() -> None:
    arms = [*DOCUMENT["arms"], {"name": "other", "version": "3"}]
    sizes = {**SIZES, "other": 20}
    shares = {"candidate": {**GOOD, "accuracy": 0.9}, "other": {**GOOD, "accuracy": 0.97}, "control": GOOD}
    intent = decide(look(facts(sizes, shares), spec(arms=arms, share=1.0)), STARTED + timedelta(seconds=20))
    assert (intent.verdict, intent.winner) == (Verdict.SHIP, "other")


def test_decide__emergency_stop__is_asked_first() -> None:
    intent = decide(look(facts(SIZES, {"candidate": BETTER, "control": GOOD}), stop="version 2 was revoked"), STARTED)
    assert (intent.action, intent.sentence) == (Action.STOP, "stopped: version 2 was revoked")


@pytest.mark.parametrize("state", [state for state in ExperimentState if state is not ExperimentState.RUNNING])
def test_decide__not_running__never_again(state: ExperimentState) -> None:
    seen = replace(look(facts(SIZES, {"candidate": BETTER, "control": GOOD})), state=state)
    assert decide(seen, STARTED + timedelta(days=9)).action is Action.WAIT


def test_decide__equal_arms_looked_at_thirty_times__seldom_ends_in_anything_but_no_winner() -> None:
    """A/A with devices that differ (SD 5 points): errors over all looks stay within alpha and the harm budget."""
    dice, asked = random.Random(11), spec(guardrails={}, duration_s=31, min_duration_s=0)
    runs, ships, harms = 60, 0, 0
    for _ in range(runs):
        own = {
            arm: [min(1.0, max(0.0, dice.gauss(0.85, 0.05))) for _ in range(count)]
            for arm, count in (("candidate", 12), ("control", 24))
        }
        hits = {arm: [0] * len(found) for arm, found in own.items()}
        empty = facts({"candidate": 12, "control": 24}, {"candidate": {}, "control": {}})
        for day in range(1, 31):
            for arm, shares in own.items():
                for number, share in enumerate(shares):
                    hits[arm][number] += sum(dice.random() < share for _ in range(10))
            seen = [
                replace(row, numerator=hits[row.arm][int(row.device_id.split("-")[1])], denominator=10 * day)
                for arm, count in (("candidate", 12), ("control", 24))
                for row in rows(arm, count, {"accuracy": 0.0}, dice=dice, n=1)
            ]
            intent = decide(look(replace(empty, rows=tuple(seen)), asked), STARTED + timedelta(seconds=day))
            ships += intent.verdict is Verdict.SHIP
            harms += intent.verdict is Verdict.HARM
            if intent.action is not Action.WAIT:
                break
    assert ships <= 4
    assert harms <= 2


# ---------------------------------------------------------------- the past, custom metrics, arms that go


def test_analyse__devices_differ_but_have_a_past__is_told_apart_by_it() -> None:
    """Devices differ by 10 points, the arms by 3: unseen without the past, found with it."""
    dice = random.Random(5)
    found = []
    for arm, count, gain in (("candidate", 40, 0.03), ("control", 80, 0.0)):
        for number in range(count):
            own = min(0.95, max(0.2, dice.gauss(0.75, 0.1)))
            hits = round((own + gain) * 1_000)
            found.append(
                ArmRow(arm, f"{arm}-{number}", "edge-std", "accuracy", hits, 1_000, before=Total(own * 2_000, 2_000))
            )
    seen = Facts(planned={("candidate", "edge-std"): 40, ("control", "edge-std"): 80}, rows=tuple(found))
    blind = replace(seen, rows=tuple(replace(row, before=None) for row in found))
    (with_past,) = analyse(spec(), seen).of("candidate", Role.SUCCESS)
    (without,) = analyse(spec(), blind).of("candidate", Role.SUCCESS)
    assert (without.finding, without.theta) == (Finding.WAIT, None)
    assert with_past.finding is Finding.BETTER
    assert with_past.theta == pytest.approx(1.0, abs=0.1)
    assert with_past.value == pytest.approx(0.03, abs=0.005)


REJECTS = {"kind": "mean", "better": "lower", "min_per_device": 10}


def custom_facts(candidate: float) -> Facts:
    """Forty devices a side that measure a mean of their own."""
    dice = random.Random(9)
    found = []
    for arm, mean in (("candidate", candidate), ("control", 40.0)):
        for number in range(40):
            values = [dice.gauss(mean, 4) for _ in range(50)]
            squares = sum(value * value for value in values)
            device = f"{arm}-{number}"
            found.append(ArmRow(arm, device, "edge-std", "custom.rejects", sum(values), 50, squares))
    return Facts(planned={("candidate", "edge-std"): 40, ("control", "edge-std"): 40}, rows=tuple(found))


def test_analyse__custom_metric__is_judged_in_its_own_unit() -> None:
    asked = spec(
        success={"custom": {"rejects": {**REJECTS, "effect": 1}}},
        guardrails={"custom": {"rejects": {**REJECTS, "margin": 2}}},
    )
    found = analyse(asked, custom_facts(35.0))
    (success,), (guardrail,) = found.of("candidate", Role.SUCCESS), found.of("candidate", Role.GUARDRAIL)
    assert (success.finding, guardrail.finding) == (Finding.BETTER, Finding.PASS)
    assert success.own_unit
    assert success.value == pytest.approx(-5, abs=1)
    assert "lower than the control's" in success.sentence
    assert "points" not in success.sentence
    worse = analyse(asked, custom_facts(46.0))
    assert {item.finding for item in worse.comparisons if item.role is not Role.INSTALLS} == {Finding.WORSE}


THREE = {"candidate": 20, "other": 20, "control": 40}
OTHER = {"name": "other", "version": "3"}


def three(**shares: dict[str, float]) -> Facts:
    return facts(THREE, {"control": GOOD, **shares})


def test_decide__one_arm_of_several_is_harmful__it_alone_is_dropped() -> None:
    asked = spec(arms=[*DOCUMENT["arms"], OTHER], share=1.0)
    seen = three(candidate=BETTER, other=WORSE)
    intent = decide(look(seen, asked), STARTED)
    assert (intent.action, intent.verdict, set(intent.dropped)) == (Action.DROP, Verdict.HARM, {"other"})
    assert intent.sentence.startswith("FAIL: accuracy of other")
    assert intent.evidence["comparisons"]
    after = decide(look(replace(seen, dropped=frozenset({"other"})), asked), STARTED + timedelta(seconds=30))
    assert (after.verdict, after.winner) == (Verdict.SHIP, "candidate")


def test_decide__every_treatment_is_harmful__stops() -> None:
    asked = spec(arms=[*DOCUMENT["arms"], OTHER], share=1.0)
    intent = decide(look(three(candidate=WORSE, other=SLOWER), asked), STARTED)
    assert (intent.action, intent.verdict) == (Action.STOP, Verdict.HARM)
    last = decide(look(replace(three(candidate=WORSE, other=WORSE), dropped=frozenset({"other"})), asked), STARTED)
    assert (last.action, last.verdict) == (Action.STOP, Verdict.HARM)


def test_analyse__after_a_drop__the_others_are_judged_no_more_easily() -> None:
    asked = spec(arms=[*DOCUMENT["arms"], OTHER], share=1.0)
    seen = three(candidate=BETTER, other=GOOD)
    (before,) = analyse(asked, seen).of("candidate", Role.SUCCESS)
    found = analyse(asked, replace(seen, dropped=frozenset({"other"})))
    (after,) = found.of("candidate", Role.SUCCESS)
    assert {item.arm for item in found.comparisons} == {"candidate"}
    assert set(found.assigned.counts) == {"candidate", "control"}
    assert not found.assigned.rejected
    assert before.p_adjusted is not None
    assert after.p_adjusted is not None
    assert after.p_adjusted >= before.p_adjusted


def test_decide__arms_of_which_one_is_dropped__still_catch_a_mismatch() -> None:
    asked = spec(arms=[*DOCUMENT["arms"], OTHER], share=1.0)
    seen = facts({"candidate": 80, "other": 20, "control": 20}, {"candidate": GOOD, "other": GOOD, "control": GOOD})
    intent = decide(look(replace(seen, dropped=frozenset({"other"})), asked), STARTED)
    assert intent.verdict is Verdict.MISMATCH
