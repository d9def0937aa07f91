"""What shadows show: paired by device, at every look, with the candidate's own limits."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fleet.domain.errors import InvalidInputError
from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_analysis import analyse
from fleet.domain.experiment_decision import Action, Intent, Snapshot, Verdict, decide
from fleet.domain.experiment_findings import ArmOffer, ArmRow, Facts, Finding, Role
from fleet.domain.experiment_plan import plan
from fleet.domain.experiment_states import ExperimentState
from fleet.domain.plan import PlacedDevices
from fleet.domain.strata import ALL_CLASSES

STARTED = datetime(2026, 5, 4, 12, tzinfo=UTC)
DOCUMENT: dict[str, Any] = {
    "arms": [
        {"name": "champion", "version": "1", "weight": 0},
        {"name": "candidate", "version": "2", "weight": 1},
    ],
    "shadow": {"inference_share": 0.2, "time_share": 0.1},
    "success": {"accuracy": {"effect_points": 2, "min_labels_per_device": 20}},
    "guardrails": {
        "agreement": {"min_share": 0.7, "min_compared_per_device": 20},
        "errors": {"max_share": 0.02, "min_inferences_per_device": 20},
    },
    "duration_s": 100,
}


def spec(**changes: Any) -> ExperimentSpec:
    return ExperimentSpec.parse({**DOCUMENT, **changes})


class World:
    """Devices that answer the same inputs with both versions, day by day; how good they are differs by device."""

    def __init__(self, seed: int, devices: int = 16, gain: float = 0.0, errors: float = 0.0) -> None:
        self.dice = random.Random(seed)
        self.gain, self.errors = gain, errors
        self.own = [min(0.98, max(0.3, self.dice.gauss(0.8, 0.1))) for _ in range(devices)]
        self.apart = [0] * devices
        self.discordant = [0] * devices
        self.seen = self.agreed = self.failed = 0

    def day(self, labels: int = 40) -> None:
        """Every device gets so many labels; the two versions err on the same inputs more often than not."""
        for number, share in enumerate(self.own):
            for _ in range(labels):
                hard = self.dice.random()
                champion = hard < share
                moved = self.dice.random() < 0.15
                candidate = (self.dice.random() < share + self.gain / 0.15) if moved else champion
                self.apart[number] += candidate - champion
                self.discordant[number] += candidate != champion
        self.seen += labels
        self.failed += round(labels * self.errors)

    def facts(self) -> Facts:
        rows = []
        for number, (apart, discordant) in enumerate(zip(self.apart, self.discordant, strict=True)):
            device, name = f"d-{number}", "edge-std" if number % 2 else "edge-max"
            same = self.seen - discordant
            rows += [
                ArmRow("candidate", device, name, "shadow.accuracy", apart, self.seen, discordant),
                ArmRow("candidate", device, name, "shadow.agreement", same, self.seen),
                ArmRow("candidate", device, name, "shadow.errors", self.failed, self.seen + self.failed),
            ]
        count = len(self.own)
        planned = {("candidate", "edge-std"): count // 2, ("candidate", "edge-max"): count - count // 2}
        offers = tuple(ArmOffer("candidate", name, number) for (_, name), number in planned.items())
        return Facts(planned=planned, offers=offers, rows=tuple(rows))


def look(world: World, asked: ExperimentSpec | None = None, at_s: float = 50.0) -> Intent:
    ends_at = STARTED + timedelta(seconds=100)
    seen = Snapshot(ExperimentState.RUNNING, asked or spec(), world.facts(), STARTED, ends_at)
    return decide(seen, STARTED + timedelta(seconds=at_s))


def after_days(days: int, **how: Any) -> World:
    world = World(7, **how)
    for _ in range(days):
        world.day()
    return world


def test_better_candidate__few_devices_that_differ_much__ships_on_paired_evidence() -> None:
    """Devices differ by 10 points, the versions by 4: two arms of eight devices could not tell them apart."""
    world = after_days(12, gain=0.04)
    found = analyse(spec(), world.facts())
    overall = next(item for item in found.of("candidate", Role.SUCCESS) if item.stratum == ALL_CLASSES)
    assert overall.finding is Finding.BETTER
    assert overall.value == pytest.approx(0.04, abs=0.02)
    assert "higher than the champion's on the same inputs" in overall.sentence
    assert overall.control is None
    intent = look(world)
    assert (intent.action, intent.verdict, intent.winner) == (Action.DECIDE, Verdict.SHIP, "candidate")


def test_worse_candidate__is_harm_although_nobody_was_served_it() -> None:
    intent = look(after_days(12, gain=-0.12))
    assert (intent.action, intent.verdict) == (Action.STOP, Verdict.HARM)
    assert "lower than the champion's on the same inputs" in intent.sentence


def test_candidate_that_fails__beyond_its_limit__is_harm() -> None:
    intent = look(after_days(12, gain=0.04, errors=0.1))
    assert intent.verdict is Verdict.HARM
    assert "the share of failed inferences, of candidate" in intent.sentence
    assert "(limit 2%)" in intent.sentence


def test_starved_candidate__is_not_measured_and_the_reason_says_so() -> None:
    """Devices that had nothing to spare have skipped nearly everything: that is no harm, and no winner."""
    world = World(7)
    world.day(labels=2)
    seen = world.facts()
    rows = tuple(ArmRow("candidate", f"d-{n}", "edge-std", "shadow.skipped", 98, 100) for n in range(6))
    facts = replace(seen, rows=seen.rows + rows)
    ends_at = STARTED + timedelta(seconds=100)
    early = decide(Snapshot(ExperimentState.RUNNING, spec(), facts, STARTED, ends_at), STARTED + timedelta(seconds=50))
    late = decide(Snapshot(ExperimentState.RUNNING, spec(), facts, STARTED, ends_at), ends_at)
    assert early.verdict is None
    assert late.verdict is Verdict.INCONCLUSIVE
    overall = next(i for i in analyse(spec(), facts).of("candidate", Role.SUCCESS) if i.stratum == ALL_CLASSES)
    assert overall.finding is Finding.WAIT
    assert overall.sentence.endswith("; 6 devices had no time or memory for 98% of what was chosen")


def test_agreement_below_its_limit__is_no_winner() -> None:
    guardrails = {"agreement": {"min_share": 0.99, "min_compared_per_device": 20}}
    found = analyse(spec(guardrails=guardrails), after_days(12, gain=0.04).facts())
    overall = next(item for item in found.of("candidate", Role.GUARDRAIL) if item.stratum == ALL_CLASSES)
    assert overall.finding is Finding.WORSE


def test_accuracy_as_a_guardrail__within_its_margin__passes() -> None:
    asked = spec(success={}, guardrails={"accuracy": {"margin_points": 5, "min_labels_per_device": 20}})
    intent = look(after_days(12), asked)
    assert intent.verdict is Verdict.SHIP
    (accuracy, *_) = analyse(asked, after_days(12).facts()).of("candidate", Role.GUARDRAIL)
    assert accuracy.sentence.startswith("PASS: accuracy of candidate is between")


def test_too_few_devices_with_labels__waits_and_says_so() -> None:
    found = analyse(spec(), after_days(2, devices=7, gain=0.1).facts())
    assert {item.finding for item in found.comparisons} == {Finding.WAIT}
    assert "needs 8" in found.comparisons[0].sentence


def test_device_with_totals_that_cannot_be__has_no_vote() -> None:
    world = after_days(12, gain=0.04)
    facts = world.facts()
    liar = replace(facts.rows[0], numerator=10_000_000)
    seen = analyse(spec(), replace(facts, rows=(liar, *facts.rows[1:])))
    overall = next(item for item in seen.of("candidate", Role.SUCCESS) if item.stratum == ALL_CLASSES)
    assert overall.treated is not None
    assert overall.treated.devices == 15


def test_equal_versions_looked_at_daily__seldom_end_in_anything_but_no_winner() -> None:
    runs, ships, harms = 60, 0, 0
    asked = spec(guardrails={})
    for run in range(runs):
        world = World(1_000 + run, devices=12)
        for day in range(1, 21):
            world.day(labels=20)
            intent = look(world, asked, at_s=day)
            ships += intent.verdict is Verdict.SHIP
            harms += intent.verdict is Verdict.HARM
            if intent.action is not Action.WAIT:
                break
    assert ships <= 4
    assert harms <= 2


def test_power__four_points_on_sixteen_devices__is_mostly_found_in_a_fortnight() -> None:
    found = 0
    for run in range(20):
        world = World(5_000 + run, gain=0.04)
        for day in range(1, 15):
            world.day()
            if look(world, spec(guardrails={}), at_s=day).verdict is Verdict.SHIP:
                found += 1
                break
    assert found >= 16


# ---------------------------------------------------------------- the specification


def test_parse__shadow__is_read_back_and_counts_what_a_shadow_measures() -> None:
    found = spec()
    assert ExperimentSpec.parse(found.encode()) == found
    assert [arm.name for arm in found.treatments] == ["candidate"]
    assert set(found.metrics) == {f"shadow.{name}" for name in ("accuracy", "agreement", "slow", "errors", "nan")}
    assert [item.name for item in found.guardrails] == ["agreement", "errors"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"shadow": {"share": 1}}, "experiment.shadow: expected only"),
        ({"shadow": {"time_share": 0}}, "time_share"),
        ({"success": {"errors": {"effect_points": 1}}}, "expected accuracy alone"),
        ({"guardrails": {"errors": {"margin_points": 1}}}, "errors: expected a limit and no margin"),
        ({"guardrails": {"accuracy": {"min_share": 0.9}}}, "accuracy: expected margin_points alone"),
        (
            {"guardrails": {"custom": {"x": {"kind": "mean", "better": "lower", "limit": 1}}}},
            "expected what a shadow measures",
        ),
        ({"arms": [DOCUMENT["arms"][0]]}, "expected a control and another arm"),
    ],
    ids=["stranger", "no time", "success", "margin", "limit", "custom", "alone"],
)
def test_parse__what_a_shadow_cannot_be__is_refused_and_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        spec(**changes)
    assert complaint in refused.value.message


def test_plan__fewer_than_eight_devices__is_refused() -> None:
    small = plan(spec(), [PlacedDevices("edge-std", 0, 7)])
    assert [item.code for item in small.errors] == ["arms_too_small"]
    assert plan(spec(), [PlacedDevices("edge-std", 0, 8)]).errors == ()
