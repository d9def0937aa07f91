"""Whom phases reach: by share, by count, by name, by hardware class. Nested, sticky, disjoint from the control. Pure."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.wire.bucketing import BUCKETS, Seeded, bucket
from fleet.domain.errors import InvalidInputError
from fleet.domain.findings import Level
from fleet.domain.phases import Phase
from fleet.domain.plan import Plan, validate
from fleet.domain.policy import RolloutPolicy
from fleet.domain.ramp import PlacedDevices, control_share, count, reaches

CLASSES = ("edge-max", "edge-mini", "edge-std")
FLEET = [
    PlacedDevices(CLASSES[number % 7 % 3], bucket("seed", f"dev-{number:03}"), 1, f"dev-{number:03}")
    for number in range(210)
]


def phase(**said: Any) -> dict[str, Any]:
    return {"min_duration_s": 5, "deadline_s": 100_000, **said}


def policy(*phases: dict[str, Any], **more: Any) -> RolloutPolicy:
    return RolloutPolicy.parse({"phases": list(phases), "control_share": 0.0, **more})


def planned(found: RolloutPolicy, fleet: list[PlacedDevices] = FLEET) -> Plan:
    return validate(found, fleet, has_baseline=True)


def codes(found: Plan, level: Level = Level.ERROR) -> set[str]:
    return {item.code for item in found.findings if item.level is level}


def treated(found: RolloutPolicy, index: int) -> set[str]:
    reach = reaches(found, FLEET)[index]
    return {item.device_id for item in FLEET if reach.treats(item.device_id, item.hardware_class, item.bucket)}


def test_count__exactly_so_many__and_the_named_are_among_them() -> None:
    found = policy(phase(devices=["dev-007", "dev-011"]), phase(count=10), phase(count=100), phase(share=1))
    assert [len(treated(found, index)) for index in range(4)] == [2, 10, 100, 210]
    assert treated(found, 0) == {"dev-007", "dev-011"} < treated(found, 1) < treated(found, 2)


def test_class__share_of_one_class__others_keep_what_they_had() -> None:
    found = policy(phase(share=0.1), phase(share=1, hardware_classes=["edge-max"]), phase(share=1))
    reached = reaches(found, FLEET)
    by_class = {item.hardware_class: item for item in count(reached[1], FLEET).classes}
    assert by_class["edge-max"].treated == by_class["edge-max"].population
    before = {item.hardware_class: item for item in count(reached[0], FLEET).classes}
    assert by_class["edge-std"] == before["edge-std"]


def test_each_class__written_out__the_smallest_first() -> None:
    found = planned(RolloutPolicy.parse("by-hardware-class"))
    assert [item.share for item in found.policy.phases] == [0.5, 0.5, 0.5, 1.0]
    sizes = {name: sum(item.hardware_class == name for item in FLEET) for name in CLASSES}
    named = [item.hardware_classes[0] for item in found.policy.phases[:-1]]
    assert named == sorted(named, key=lambda name: (sizes[name], name))
    assert not found.errors
    assert codes(found, Level.NOTE) >= {"phases_by_class"}
    # What was written out is an ordinary policy: it reads back and is not written out again.
    assert RolloutPolicy.parse(found.policy.encode()) == found.policy


def test_each_class__no_device_yet__only_the_last_phase_is_left() -> None:
    found = planned(RolloutPolicy.parse("by-hardware-class"), [])
    assert [item.words for item in found.policy.phases] == ["100%"]
    assert not found.errors


def test_holdback__last_phase__leaves_it_as_its_control() -> None:
    found = policy(phase(share=0.25), phase(share=1), holdback={"share": 0.2}, control_share=0.5)
    reached = reaches(found, FLEET)
    assert [(item.treated_end, item.control_start) for item in reached] == [(250_000, 500_000), (800_000, 800_000)]
    counts = count(reached[1], FLEET)
    assert counts.treated + counts.control == counts.population
    assert "held_back" in codes(planned(found), Level.NOTE)


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (policy(phase(count=20), phase(count=10), phase(share=1)), "counts_not_rising"),
        (policy(phase(count=211), phase(share=1)), "count_unreachable"),
        (policy(phase(devices=["ghost"]), phase(share=1)), "named_devices_absent"),
        (policy(phase(devices=["dev-001"]), phase(devices=["dev-001"]), phase(share=1)), "phase_adds_nobody"),
        (
            policy(phase(share=0.5), phase(share=0.1, hardware_classes=["edge-max"]), phase(share=1)),
            "phase_adds_nobody",
        ),
        (policy(phase(share=1, hardware_classes=["edge-tpu"]), phase(share=1)), "class_absent"),
        (
            policy(phase(devices=["dev-001"]), phase(share=1), population={"deny": {"devices": ["dev-001"]}}),
            "named_and_denied",
        ),
        (policy(phase(share=0.9), phase(share=1), holdback={"share": 0.2}), "holdback_reached_early"),
        (policy(phase(share=1, deadline_s=3_600), pacing={"per_minute": 3}), "deadline_before_pace"),
        (policy(phase(share=1, deadline_s=3_600), pacing={"in_flight": 1}), "deadline_before_pace"),
        (
            policy(phase(share=1, deadline_s=3_600), pacing={"growth": {"start": 1, "factor": 1.1, "every": 50}}),
            "deadline_before_pace",
        ),
        (policy(phase(share=1, deadline_s=36_000), windows={"hours": ["02:00-04:00"]}), "deadline_before_window"),
        (
            policy(phase(share=1), windows={"hours": ["02:00-04:00"]}, pacing={"per_minute": 1}),
            "deadline_before_pace",
        ),
    ],
)
def test_plan__contradictory_or_unreachable__is_refused_with_its_code(broken: RolloutPolicy, code: str) -> None:
    assert code in codes(planned(broken))


def test_plan__pace_that_suffices__starts() -> None:
    found = policy(phase(share=1, deadline_s=3_600), pacing={"per_minute": 4}, device={"probation_s": 1})
    assert not planned(found).errors
    assert "named_devices_absent" in codes(
        planned(policy(phase(devices=["dev-001", "ghost"]), phase(share=1))), Level.WARNING
    )


@pytest.mark.parametrize(
    "said",
    [
        {"share": 0.5, "count": 3},
        {"devices": []},
        {"devices": ["dev-1", "dev-1"]},
        {"devices": ["../x"]},
        {"devices": [f"dev-{number}" for number in range(1_001)]},
        {"devices": ["dev-1"], "hardware_classes": ["a"]},
        {"share": 0.5, "each": "group"},
        {"share": 0.5, "each": "hardware_class", "hardware_classes": ["a"]},
        {"count": 0},
    ],
)
def test_phase__broken__is_refused_and_named(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"policy\.phases\[0\]"):
        policy(phase(**said))


shares = st.floats(0.001, 1).map(lambda share: {"share": share})
counts = st.integers(1, 300).map(lambda number: {"count": number})
names = st.lists(st.sampled_from([item.device_id for item in FLEET]), min_size=1, max_size=5, unique=True)
named = names.map(lambda ids: {"devices": ids})
classes = st.fixed_dictionaries(
    {"share": st.floats(0.001, 1), "hardware_classes": st.lists(st.sampled_from(CLASSES), min_size=1, unique=True)}
)


@given(
    st.lists(shares | counts | named | classes, min_size=1, max_size=6),
    st.floats(0, 1),
    st.floats(0, 0.5),
)
def test_reaches__any_phases__are_nested_and_disjoint_from_the_control(
    phases: list[dict[str, Any]], control_share: float, holdback: float
) -> None:
    found = policy(*(phase(**said) for said in phases), control_share=control_share, holdback={"share": holdback})
    before: set[str] = set()
    for index, reach in enumerate(reaches(found, FLEET)):
        now = treated(found, index)
        assert before <= now
        before = now
        compared = {
            item.device_id for item in FLEET if reach.compares(item.device_id, item.hardware_class, item.bucket)
        }
        assert not compared & now
        counted = count(reach, FLEET)
        assert (counted.treated, counted.control) == (len(now), len(compared))
        assert reach.widest_end <= BUCKETS - round(holdback * BUCKETS)


@given(st.floats(0, 1), st.integers(8, 50_000), st.integers(0, 5_000_000))
def test_control__many_devices__the_last_buckets_and_about_so_many(asked: float, most: int, population: int) -> None:
    found = policy(phase(share=0.01), phase(share=1), control_share=asked, control_devices=most)
    share = control_share(found, population)
    assert share * population <= max(most, population / BUCKETS) + 1e-6
    assert share == asked or (share < asked and (share + 1 / BUCKETS) * population >= most)
    wide, narrow = (reaches(item, ())[0] for item in (found, replace(found, control_share=share)))
    assert narrow.treated_end == wide.treated_end
    assert narrow.control_start >= wide.control_start
    assert control_share(replace(found, control_share=share), population) == share


def test_plan__control_of_more_devices_than_are_needed__smaller_and_said() -> None:
    fleet = [PlacedDevices("edge-std", place, 1_000) for place in range(0, BUCKETS, 1_000)]
    gates = {"errors": {"margin_points": 1}}
    found = policy(phase(share=0.01), phase(share=1), control_share=0.5, gates=gates)
    share = control_share(found, 1_000_000)
    plan = validate(found, fleet, has_baseline=True, control_share=share)
    assert (plan.policy.control_share, plan.phases[0].control, codes(plan)) == (0.02, 20_000, set())
    assert "control_capped" in codes(plan, Level.NOTE)
    assert RolloutPolicy.parse(plan.policy.encode()) == plan.policy
    overlapping = policy(phase(share=0.6), phase(share=1), control_share=0.5, gates=gates)
    assert codes(validate(overlapping, fleet, has_baseline=True, control_share=share)) == {"control_overlaps"}


@given(st.text(max_size=40), st.text(max_size=40))
def test_seeded__any_device__is_in_the_bucket_of_the_shared_hash(seed: str, device_id: str) -> None:
    assert Seeded(seed).bucket(device_id.encode()) == bucket(seed, device_id)


def test_phase__each_kind__reads_back() -> None:
    kinds = (phase(share=0.5), phase(count=3), phase(devices=["dev-1"]), phase(share=1, hardware_classes=["a", "b"]))
    for said in kinds:
        found: Phase = policy(said).phases[0]
        assert policy(found.encode()).phases[0] == found
        assert found.words
