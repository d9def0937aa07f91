"""What an experiment is: its states, its specification, its buckets, its plan."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.wire.bucketing import BUCKETS, bucket
from fleet.domain.errors import ConflictError, InvalidInputError
from fleet.domain.experiment import ExperimentSpec, layout
from fleet.domain.experiment_decision import may_extend
from fleet.domain.experiment_plan import plan
from fleet.domain.experiment_states import TERMINAL, TRANSITIONS, ExperimentEvent, ExperimentState, next_state
from fleet.domain.plan import PlacedDevices
from tests.domain.experiments import DOCUMENT, spec

EXPECTED = {
    "draft": {"start": "running", "submit": "awaiting_approval", "schedule": "scheduled", "stop": "stopped"},
    "awaiting_approval": {"approve": "scheduled", "stop": "stopped"},
    "scheduled": {"start": "running", "stop": "stopped"},
    "running": {"decide": "decided", "drop": "running", "extend": "running", "stop": "stopped"},
    "decided": {"extend": "running", "promote": "promoted", "stop": "stopped"},
    "promoted": {},
    "stopped": {},
}


@pytest.mark.parametrize("event", list(ExperimentEvent))
@pytest.mark.parametrize("state", list(ExperimentState))
def test_next_state__every_pair__is_in_the_table_or_refused(state: ExperimentState, event: ExperimentEvent) -> None:
    expected = EXPECTED[state.value].get(event.value)
    if expected is None:
        with pytest.raises(ConflictError, match=event.value) as refused:
            next_state(state, event)
        assert refused.value.code == "experiment_state"
    else:
        assert next_state(state, event).value == expected


def test_states__terminal_ones__are_those_without_a_way_out() -> None:
    assert {state for state in ExperimentState if not any(start is state for start, _ in TRANSITIONS)} == TERMINAL


@pytest.mark.parametrize("verdict", ["ship", "inconclusive"])
def test_may_extend__decided__only_without_a_winner(verdict: str) -> None:
    assert may_extend(ExperimentState.DECIDED, verdict) is (verdict == "inconclusive")
    assert may_extend(ExperimentState.RUNNING, "")


# ---------------------------------------------------------------- the specification


def test_parse__encoded__is_read_back_equal() -> None:
    found = spec(holdback=0.1, population={"filter": 'hw == "edge-std"'}, jitter_s=5)
    assert ExperimentSpec.parse(found.encode()) == found
    assert [arm.name for arm in found.treatments] == ["candidate"]
    assert [metric.name for metric in found.guardrails] == ["latency", "errors"]
    assert found.policy.device.slow_ms == 50


def test_parse__custom_metrics__are_read_back_and_counted() -> None:
    rejects = {"kind": "ratio", "better": "lower", "min_per_device": 20, "bounds": [0, 1]}
    found = spec(
        success={"custom": {"rejects": {**rejects, "effect": 0.01}}, "accuracy": {"effect_points": 2}},
        guardrails={"custom": {"rejects": {**rejects, "margin": 0.02}}},
    )
    assert ExperimentSpec.parse(found.encode()) == found
    assert [(item.name, item.margin) for item in found.success] == [("accuracy", 0.02), ("custom.rejects", 0.01)]
    assert found.metrics["custom.rejects"] == "ratio"
    assert found.metrics["errors"] == "share"


ARM = {"name": "x", "version": "3"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"arms": []}, "expected a control and another arm with a weight"),
        ({"share": 1e-6}, "a share of at least 1e-06 for each arm, got less for"),
        ({"arms": [DOCUMENT["arms"][0]]}, "expected a control and another arm"),
        ({"arms": [*DOCUMENT["arms"], DOCUMENT["arms"][0]]}, "expected different names"),
        ({"arms": [*DOCUMENT["arms"], {**ARM, "name": "Bad name"}]}, "lower-case letters"),
        ({"arms": [*DOCUMENT["arms"], {**ARM, "weight": -1}]}, "weight: expected a number"),
        ({"arms": [*DOCUMENT["arms"], {**ARM, "wight": 1}]}, "wight"),
        ({"control": "nobody"}, "got control 'nobody'"),
        ({"holdback": 0.5}, "at most 1 together"),
        ({"duration_s": 10}, "more than min_duration_s"),
        ({"success": {"accuracy": {}}}, "expected effect_points"),
        ({"success": {"accuracy": {"effect_points": 1, "margin_points": 1}}}, "and no margin"),
        ({"success": {"custom": {"rejects": {"kind": "mean", "better": "lower", "margin": 1}}}}, "expected effect"),
        (
            {
                "success": {"custom": {"rejects": {"kind": "mean", "better": "lower", "effect": 1}}},
                "guardrails": {"custom": {"rejects": {"kind": "ratio", "better": "lower", "margin": 1}}},
            },
            "kind and better as in the guardrails",
        ),
        ({"success": {"speed": {"effect_points": 1}}}, "experiment.success"),
        ({"success": {"latency": {"effect_points": 1, "slow_ms": 9}}}, "as elsewhere in the experiment"),
        ({"guardrails": {"latency": {"slow_ms": 50}}}, "experiment.guardrails.latency"),
        ({"success": {}, "guardrails": {}}, "expected a success metric or a guardrail"),
        ({"sucess": {}}, "sucess"),
        ({"alpha": 0.9}, "alpha"),
    ],
)
def test_parse__wrong__is_refused_and_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        spec(**changes)
    assert refused.value.code == "experiment_invalid"
    assert complaint in refused.value.message


# ---------------------------------------------------------------- buckets

weights = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0]), min_size=1, max_size=6)


@given(weights, st.floats(0.01, 0.7), st.floats(0, 0.3))
def test_layout__any_weights__disjoint_within_the_share_and_off_the_holdback(
    treatments: list[float], share: float, holdback: float
) -> None:
    arms: list[dict[str, Any]] = [{"name": "control", "version": "1", "weight": 1}]
    arms += [{"name": f"t{number}", "version": "2", "weight": weight} for number, weight in enumerate(treatments)]
    if not any(treatments):
        arms[1]["weight"] = 1
    found = layout(spec(arms=arms, control="control", share=share, holdback=holdback))
    ranges = [buckets for _, buckets in found]
    assert all(one.end <= other.start for one, other in pairwise(ranges))
    assert ranges[-1].end == BUCKETS - round(holdback * BUCKETS)
    taken = sum(item.end - item.start for item in ranges)
    assert abs(taken - share * BUCKETS) <= len(ranges)
    whole = sum(arm.weight for arm, _ in found)
    for arm, item in found:
        assert abs((item.end - item.start) - arm.weight / whole * share * BUCKETS) <= 2


def test_layout__treatments_first__a_rollout_on_the_same_seed_begins_with_them() -> None:
    (candidate, first), (control, last) = layout(spec(holdback=0.1))
    assert (candidate.name, first.start, first.end) == ("candidate", 0, 250_000)
    assert (control.name, last.start, last.end) == ("control", 400_000, 900_000)


# ---------------------------------------------------------------- the plan


def placed(devices: int) -> list[PlacedDevices]:
    return [PlacedDevices("edge-std", bucket("s", f"cam-{number}")) for number in range(devices)]


def test_plan__large_fleet__sees_what_it_looks_for() -> None:
    found = plan(spec(), placed(4_000))
    assert found.errors == ()
    accuracy = next(item for item in found.sizes if item.metric == "accuracy")
    assert accuracy.needed_treated is not None
    assert accuracy.needed_treated < 1_000
    assert accuracy.detectable_points is not None
    assert accuracy.detectable_points < accuracy.effect_points
    assert abs(sum(arm.devices for arm in found.arms) - 3_000) < 150


def test_plan__fleet_too_small_for_its_arms__is_refused_with_the_numbers() -> None:
    (error,) = plan(spec(), placed(6)).errors
    assert error.code == "arms_too_small"
    assert "a comparison needs 4 and 8" in error.sentence


def test_plan__effect_too_small_for_the_fleet__is_warned_of() -> None:
    found = plan(spec(), placed(40))
    assert "effect_unseen" in {item.code for item in found.findings}
