import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.domain.errors import InvalidInputError
from fleet.domain.gate_policy import Metric
from fleet.domain.policy import RolloutPolicy
from fleet.domain.presets import PRESETS

RAMP = [{"share": 0.25, "min_duration_s": 5, "deadline_s": 60}, {"share": 1.0, "deadline_s": 60}]
DEMO = {
    "phases": RAMP,
    "gates": {
        "accuracy": {"margin_points": 5, "min_labels_per_device": 30},
        "latency": {"slow_ms": 250, "max_slow_share": 0.05},
        "errors": {"max_share": 0.01},
        "install_failures": {"max_share": 0.1},
        "silence": {"grace_s": 30, "max_share": 0.2},
    },
    "device": {"window_s": 2, "probation_s": 3},
}
EVERY_GATE = {
    "phases": RAMP,
    "gates": {
        "accuracy": {"margin_points": 5, "min_share": 0.8},
        "agreement": {"margin_points": 3, "min_compared_per_device": 5},
        "latency": {"slow_ms": 250, "margin_points": 1, "max_ratio": 1.5},
        "errors": {"max_share": 0.01},
        "nan": {"max_share": 0.01},
        "rollbacks": {"max_share": 0.05},
        "crashes": {"max_share": 0.02, "max_ratio": 3},
        "custom": {
            "rejects": {"kind": "ratio", "better": "lower", "margin": 0.01, "min_per_device": 7},
            "score": {"kind": "mean", "better": "higher", "margin": 2, "limit": -5, "bounds": [-10, 10]},
        },
    },
}


@pytest.mark.parametrize("policy", [*PRESETS, DEMO, EVERY_GATE, {"preset": "safe-ramp", "gates": {"errors": None}}])
def test_policy__encoded__parses_to_itself(policy: object) -> None:
    parsed = RolloutPolicy.parse(policy)
    assert RolloutPolicy.parse(parsed.encode()) == parsed


@pytest.mark.parametrize("name", PRESETS)
def test_preset__every_one__parses_and_is_fitted_to_the_fleet(name: str) -> None:
    parsed = RolloutPolicy.parse(name)
    assert parsed.is_fitted
    assert parsed.phases[-1].share == 1.0


def test_policy__preset_with_own_phases__are_meant_as_written() -> None:
    assert not RolloutPolicy.parse({"preset": "safe-ramp", "phases": RAMP}).is_fitted


def test_policy__preset_with_own_gate__keeps_the_others() -> None:
    parsed = RolloutPolicy.parse({"preset": "safe-ramp", "gates": {"accuracy": {"margin_points": 2}}})
    assert [gate.name for gate in parsed.gates.measured] == ["accuracy", "errors"]
    assert parsed.gates.measured[0].margin == pytest.approx(0.02)


def test_policy__field_that_is_null__is_as_if_it_were_absent() -> None:
    whole = RolloutPolicy.parse("safe-ramp")
    assert RolloutPolicy.parse({"preset": "safe-ramp", "gates": None, "phases": None, "device": None}) == whole
    without = RolloutPolicy.parse({"preset": "safe-ramp", "gates": {"errors": None}})
    assert [gate.name for gate in whole.gates.measured] == ["errors"]
    assert without.gates.measured == ()


def test_policy__latency_gate__sets_the_devices_slow_threshold() -> None:
    parsed = RolloutPolicy.parse(DEMO)
    assert parsed.device.slow_ms == 250
    assert parsed.gates.measured[1].metric == Metric.SLOW


@pytest.mark.parametrize(
    ("policy", "got"),
    [
        (7, "got 7"),
        ({}, "got neither"),
        ({"preset": "yolo"}, "got 'yolo'"),
        ({"preset": ["safe-ramp"]}, "policy.preset"),
        ({"phases": []}, "got neither"),
        ({"phases": [{}]}, "policy.phases[0].share"),
        ({"phases": [{"share": 0}]}, "got 0"),
        ({"phases": [{"share": 1.5}]}, "got 1.5"),
        ({"phases": [{"share": float("nan")}]}, "got nan"),
        ({"phases": [{"share": "25%"}]}, "got '25%'"),
        ({"phases": [{"share": 1, "deadline": 5}]}, "got deadline"),
        ({"phases": [{"share": 1}] * 33}, "1 to 32 phases"),
        ({"phases": RAMP, "gate": {}}, "got gate"),
        ({"phases": RAMP, "gates": {"acuracy": {"margin_points": 1}}}, "got acuracy"),
        ({"phases": RAMP, "gates": {"accuracy": {"margin": 1}}}, "got margin"),
        ({"phases": RAMP, "gates": {"accuracy": {"margin_points": "five"}}}, "got 'five'"),
        ({"phases": RAMP, "gates": {"accuracy": {"margin_points": -1}}}, "got -1"),
        ({"phases": RAMP, "gates": {"accuracy": {"min_labels_per_device": 5}}}, "got neither"),
        ({"phases": RAMP, "gates": {"latency": {"max_slow_share": 0.1}}}, "slow_ms"),
        ({"phases": RAMP, "gates": {"latency": {"slow_ms": 0, "max_slow_share": 0.1}}}, "slow_ms"),
        ({"phases": RAMP, "gates": [1]}, "policy.gates"),
        (
            {"phases": RAMP, "gates": {"latency": {"slow_ms": 9, "max_slow_share": 0.1, "max_ratio": 2}}},
            "margin_points",
        ),
        ({"phases": RAMP, "gates": {"latency": {"slow_ms": 9, "margin_points": 1, "max_ratio": 0.5}}}, "got 0.5"),
        ({"phases": RAMP, "gates": {"errors": {"margin_points": 1, "max_ratio": 2}}}, "got max_ratio"),
        ({"phases": RAMP, "gates": {"crashes": {"max_share": 2}}}, "got 2"),
        ({"phases": RAMP, "gates": {"custom": {"Rejects": {}}}}, "lower-case"),
        ({"phases": RAMP, "gates": {"custom": {"a": {"kind": "sum"}}}}, "got 'sum'"),
        ({"phases": RAMP, "gates": {"custom": {"a": {"kind": "mean", "better": "higher"}}}}, "got neither"),
        (
            {
                "phases": RAMP,
                "gates": {"custom": {"a": {"kind": "mean", "better": "higher", "margin": 1, "bounds": [2, 1]}}},
            },
            "[lowest, highest]",
        ),
        ({"phases": RAMP, "gates": {"custom": {f"m{number}": {} for number in range(17)}}}, "at most 16"),
        (
            {
                "phases": RAMP,
                "gates": {"latency": {"slow_ms": 9, "max_slow_share": 0.1}},
                "device": {"slow_ms": 10},
            },
            "expected 9",
        ),
        ({"phases": RAMP, "alpha": 0}, "policy.alpha"),
        ({"phases": RAMP, "alpha": 0.5}, "policy.alpha"),
        ({"phases": RAMP, "on_fail": "shrug"}, "shrug"),
        ({"phases": RAMP, "on_inconclusive": "ship"}, "no evidence is not a pass"),
        ({"phases": RAMP, "auto_advance": "yes"}, "true or false"),
        ({"phases": RAMP, "population": {"classes": []}}, "got classes"),
        ({"phases": RAMP, "device": {"probation": 3}}, "got probation"),
        ({"phases": RAMP, "device": {"window_s": -1}}, "window_s"),
        ({"phases": RAMP, "parameters": {"a": 1}}, "policy.parameters"),
        ({"preset": "safe-ramp", "gates": []}, "policy.gates: expected an object, got list"),
        ({"preset": "safe-ramp", "gates": False}, "policy.gates: expected an object, got bool"),
        ({"phases": RAMP, "gates": {"crashes": False}}, "policy.gates.crashes: expected an object, got bool"),
        ({"phases": RAMP, "population": []}, "policy.population: expected an object, got list"),
        ({"phases": RAMP, "population": {"deny": ""}}, "policy.population.deny: expected an object, got str"),
        ({"phases": RAMP, "device": 0}, "policy.device: expected an object, got int"),
        ({"phases": RAMP, "revert": False}, "policy.revert: expected an object, got bool"),
        ({"phases": RAMP, "conditions": []}, "policy.conditions: expected an object, got list"),
        ({"phases": RAMP, "pacing": {"growth": {"start": 1, "factor": 2, "every": 1, "max": 5}}}, "got max"),
        ({"phases": RAMP, "schedule": {"start_at": "0001-01-01T00:00:00+23:59"}}, "before the year"),
        ({"phases": RAMP, "schedule": {"start_at": "9999-12-31T23:59:59-23:59"}}, "before the year"),
        ({"phases": RAMP, "schedule": {"start_at": "9999-12-31T23:00:00Z", "days": ["mon"]}}, "before the year"),
        ({"phases": RAMP, "schedule": {"start_at": "2026-03-01T08:00:00"}}, "a moment such as"),
    ],
)
def test_policy__broken__is_refused_and_says_what_came(policy: object, got: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        RolloutPolicy.parse(policy)
    assert got in refused.value.message
    assert refused.value.code == "policy_invalid"


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=True) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["preset", "phases", "gates", "device", "population", "alpha", "on_fail", "control_share"]),
        json_values,
    )
)
def test_policy__any_json__parses_or_is_refused(document: dict[str, object]) -> None:
    try:
        parsed = RolloutPolicy.parse(document)
    except InvalidInputError:
        return
    assert RolloutPolicy.parse(parsed.encode()) == parsed
