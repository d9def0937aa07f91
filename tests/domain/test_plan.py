from typing import Any

import pytest

from device_client.wire.bucketing import BUCKETS, bucket
from fleet.demo import fleet_plan, policies
from fleet.domain.gate import judge
from fleet.domain.plan import Level, PlacedDevices, ranges, validate
from fleet.domain.policy import RolloutPolicy
from fleet.domain.verdicts import OfferCount, PhaseFacts, Verdict

GATES: dict[str, Any] = {"accuracy": {"margin_points": 5}}
EVEN = [PlacedDevices("edge-std", BUCKETS * index // 16) for index in range(16)]


def policy(*shares: float, **more: Any) -> RolloutPolicy:
    phases = [{"share": share, "min_duration_s": 5, "deadline_s": 1_000} for share in shares]
    return RolloutPolicy.parse({"phases": phases, "gates": GATES, **more})


def codes(found: Any, level: Level) -> set[str]:
    return {item.code for item in found.findings if item.level is level}


def test_plan__demo_fleet__has_what_its_gates_need() -> None:
    """The story's seeds: 4 treated and 8 control at 25%, 8 and 8 at 50%."""
    placed = [
        PlacedDevices(item.hardware_class, bucket(fleet_plan.SEED_BETTER, item.id)) for item in fleet_plan.DEVICES
    ]
    found = validate(RolloutPolicy.parse(policies.ramp()), placed, has_baseline=True)
    assert not found.errors
    assert [(counts.treated, counts.control) for counts in found.phases] == [(4, 8), (8, 8), (16, 0)]
    accuracy = [item for item in found.detectable if item.gate == "accuracy"]
    assert [(item.phase, item.stratum) for item in accuracy] == [(0, "all classes"), (1, "all classes")]
    assert all(item.drop_points is not None and 5 < item.drop_points < 40 for item in accuracy)


def test_ranges__phases__are_nested_and_never_overlap_the_control() -> None:
    ramp = policy(0.25, 0.75, 1.0)
    found = [ranges(ramp, index) for index in range(3)]
    assert [item.treated_end for item in found] == [250_000, 750_000, BUCKETS]
    assert [item.control_start for item in found] == [500_000, 750_000, BUCKETS]


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (policy(0.5, 0.25, 1.0), "shares_not_rising"),
        (policy(0.5, 0.5, 1.0), "shares_not_rising"),
        (policy(1.0), "control_overlaps"),
        (policy(0.25, 1.0, jitter_s=2_000), "deadline_before_jitter"),
        (policy(0.01, 1.0), "phase_reaches_nobody"),
        (policy(0.1, 1.0), "gate_unreachable"),
        (
            RolloutPolicy.parse({"phases": [{"share": 1, "min_duration_s": 9, "deadline_s": 9}]}),
            "deadline_before_minimum",
        ),
    ],
)
def test_plan__cannot_work__error_says_why(broken: RolloutPolicy, code: str) -> None:
    devices = EVEN if code != "phase_reaches_nobody" else EVEN[1:]
    assert code in codes(validate(broken, devices, has_baseline=True), Level.ERROR)


def test_plan__first_install__comparisons_are_noted_not_refused() -> None:
    found = validate(policy(0.1, 1.0), EVEN, has_baseline=False)
    assert not found.errors
    assert "first_install" in codes(found, Level.NOTE)
    assert {item.gate for item in found.detectable} == {"install_failures", "silence"}


def test_plan__no_accuracy_gate__warns() -> None:
    assert "accuracy_unwatched" in codes(
        validate(RolloutPolicy.parse("all-at-once"), EVEN, has_baseline=True), Level.WARNING
    )


def test_plan__nobody_there__warns_but_starts() -> None:
    found = validate(RolloutPolicy.parse("all-at-once"), [], has_baseline=False)
    assert not found.errors
    assert "population_empty" in codes(found, Level.WARNING)


def test_plan__preset_on_a_small_fleet__drops_phases_that_reach_nobody_new() -> None:
    devices = [PlacedDevices("edge-std", BUCKETS * (2 * index + 1) // 32) for index in range(16)]
    found = validate(RolloutPolicy.parse("safe-ramp"), devices, has_baseline=True)
    assert [phase.share for phase in found.policy.phases] == [0.05, 0.25, 0.5, 1.0]
    assert "phases_fitted" in codes(found, Level.NOTE)
    assert not found.errors


def test_plan__phase_too_small_to_compare__is_noted() -> None:
    found = validate(policy(0.1, 0.5, 1.0), EVEN, has_baseline=True)
    assert "phase_not_compared" in codes(found, Level.NOTE)
    assert not found.errors


def test_plan__larger_fleet__sees_smaller_drops() -> None:
    large = [PlacedDevices("edge-std", BUCKETS * index // 1_000) for index in range(1_000)]
    small_drop = validate(policy(0.25, 1.0), EVEN, has_baseline=True).detectable[0].drop_points
    large_drop = validate(policy(0.25, 1.0), large, has_baseline=True).detectable[0].drop_points
    assert small_drop is not None
    assert large_drop is not None
    assert large_drop < 8 < small_drop


def test_plan__first_install_on_one_device__starts_whatever_its_bucket() -> None:
    watched = RolloutPolicy.parse({"preset": "safe-ramp", "gates": {"accuracy": {"margin_points": 2}}})
    for place in (0, 300_000, BUCKETS - 1):
        found = validate(watched, [PlacedDevices("edge-std", place)], has_baseline=False)
        assert not found.errors
        assert found.phases[-1].treated == 1


@pytest.mark.parametrize("allow_delta", [False, True])
def test_plan__demo_all_at_once__starts(*, allow_delta: bool) -> None:
    found = validate(RolloutPolicy.parse(policies.everyone(allow_delta=allow_delta)), EVEN, has_baseline=True)
    assert not found.errors


def test_plan__fleet_too_small_for_its_margin__is_told_so() -> None:
    """Sixteen devices cannot tell a point; ten thousand can."""
    tight: dict[str, Any] = {"gates": {"accuracy": {"margin_points": 1, "min_labels_per_device": 1_000}}}
    large = [PlacedDevices("edge-std", BUCKETS * index // 1_000, 10) for index in range(1_000)]
    tight_policy = RolloutPolicy.parse({"phases": [{"share": 0.25}, {"share": 1.0}], **tight})
    assert "margin_unprovable" in codes(validate(tight_policy, EVEN, has_baseline=True), Level.WARNING)
    assert "margin_unprovable" not in codes(validate(tight_policy, large, has_baseline=True), Level.WARNING)


def test_plan__every_gate__says_what_it_can_see() -> None:
    gates = {"accuracy": {"margin_points": 5}, "rollbacks": {"max_share": 0.1}, "crashes": {"max_share": 0.1}}
    found = validate(
        RolloutPolicy.parse({"phases": [{"share": 0.25}, {"share": 1.0}], "gates": gates}), EVEN, has_baseline=True
    )
    first = {item.gate: item.sentence for item in found.detectable if item.phase == 0}
    assert set(first) == {"accuracy", "install_failures", "silence", "rollbacks", "crashes"}
    assert (
        first["rollbacks"]
        == "phase 1, rollbacks, all classes (4 and 8 devices): is held at 1, fails at 3 of the treated"
    )
    assert "points, proves a margin of" in first["accuracy"]


@pytest.mark.parametrize("failed", range(5))
def test_plan__failed_installs__it_says_what_the_gate_will_say(failed: int) -> None:
    planned = validate(policy(0.25, 1.0), EVEN, has_baseline=True)
    (said,) = [item for item in planned.detectable if item.phase == 0 and item.gate == "install_failures"]
    offers = (OfferCount("edge-std", offered=4, committed=4 - failed, failed=failed),)
    facts = PhaseFacts(0, planned.phases[0], offers=offers)
    (result,) = [item for item in judge(planned.policy, facts).results if item.gate == "install_failures"]
    expected = Verdict.FAIL if failed >= (said.devices or 5) else Verdict.INCONCLUSIVE
    assert result.verdict is (expected if failed >= (said.held_at or 5) else Verdict.PASS)


def test_plan__a_million_devices__says_how_many_crashes_fail_it() -> None:
    gates = {"crashes": {"max_share": 0.05}}
    million = [PlacedDevices("edge-std", 0, 1_000_000)]
    found = validate(RolloutPolicy.parse({"phases": [{"share": 1.0}], "gates": gates}), million, has_baseline=True)
    by_gate = {item.gate: item for item in found.detectable}
    assert 50_000 < (by_gate["crashes"].devices or 0) < 52_000
    assert (by_gate["install_failures"].held_at, by_gate["silence"].devices) == (100_001, 200_001)


def test_plan__comparison_without_accuracy__is_checked_all_the_same() -> None:
    errors = {"gates": {"errors": {"margin_points": 1}}}
    found = validate(
        RolloutPolicy.parse({"phases": [{"share": 0.1}, {"share": 1.0}], **errors}), EVEN, has_baseline=True
    )
    assert "gate_unreachable" in codes(found, Level.ERROR)
