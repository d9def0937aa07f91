"""Columns against rows: whatever devices send, what gates read is the same to the last bit."""

import math
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleet.domain.gate_policy import CRASHES, Gates, MeasuredGate
from fleet.domain.measure import measure
from fleet.domain.measurements import Arm, DeviceRow, Measured, Measures, Side, Total, grouped
from fleet.domain.policy import RolloutPolicy
from fleet.domain.strata import ALL_CLASSES, Comparison, comparison
from fleet.domain.verdicts import ClassCount, PhaseCounts
from tests.domain.measured_by_rows import measured_by_rows

CLASSES = ("edge-pro", "edge-std", "orin")
GATES: dict[str, Any] = {
    "accuracy": {"margin_points": 2, "min_labels_per_device": 3},
    "errors": {"margin_points": 1, "max_share": 0.1, "min_inferences_per_device": 3},
    "nan": {"max_share": 0.1, "min_inferences_per_device": 3},
    "crashes": {"max_share": 0.1},
    "custom": {
        "rejects": {"kind": "ratio", "better": "lower", "limit": 2.0, "min_per_device": 3},
        "score": {"kind": "mean", "better": "higher", "margin": 0.1, "min_per_device": 3, "bounds": [-5, 5]},
        "depth": {"kind": "mean", "better": "higher", "margin": 0.1, "min_per_device": 3},
    },
}
POLICY = RolloutPolicy.parse({"phases": [{"share": 0.5}, {"share": 1.0}], "gates": GATES})
METRICS = [gate.metric for gate in POLICY.gates.measured] + [CRASHES]

numerators = st.one_of(st.integers(-2, 40).map(float), st.floats(-50, 50), st.sampled_from([1e12, -1e12, math.inf]))
totals = st.builds(Total, numerators, st.one_of(st.integers(0, 30).map(float), st.floats(0.1, 30)), st.floats(0, 500))
metrics = st.dictionaries(st.sampled_from(METRICS), totals, max_size=len(METRICS))


@st.composite
def fleets(draw: st.DrawFn) -> list[DeviceRow]:
    """Up to 90 devices of up to three classes, many of them alike, some without a past."""
    patterns = draw(st.lists(st.tuples(metrics, metrics), min_size=1, max_size=6))
    places = st.tuples(st.sampled_from(CLASSES), st.sampled_from(Side), st.integers(0, len(patterns) - 1))
    return [
        DeviceRow(f"dev-{number * 7919 % 1000:03}", name, side, *patterns[pattern])
        for number, (name, side, pattern) in enumerate(draw(st.lists(places, max_size=90)))
    ]


def asked(gates: Gates, measures: Measures, compared: Comparison) -> dict[tuple[str, str], object]:
    """All that gates read: arms less their past in the strata of gates with a margin, what the treated measured where
    there is a limit, their own past over all classes where there is no control, and sums everywhere.
    """
    by_name: Mapping[str, MeasuredGate] = {gate.name: gate for gate in gates.measured}
    strata = {item.name for item in compared.strata}

    def of(gate: MeasuredGate, name: str, item: Measured) -> list[object]:
        found = sums(item.treated)
        if gate.limit is not None:
            found.append(item.treated.raw)
        if gate.margin is not None:
            found += sums(item.control)
            if name in strata:
                found += [item.theta, item.treated.adjusted, item.control.adjusted]
            elif not strata and name == ALL_CLASSES:
                found.append(item.own_past)
        return found

    def sums(arm: Arm) -> list[object]:
        return [arm.devices, arm.numerator, arm.denominator, arm.mean, arm.listed]

    return {key: of(by_name[key[0]], key[1], item) for key, item in measures.by_gate.items()}


@given(fleets(), st.lists(st.integers(0, 60), min_size=6, max_size=6))
def test_columns__any_fleet__as_by_rows(rows: list[DeviceRow], planned: list[int]) -> None:
    counts = PhaseCounts(
        tuple(
            ClassCount(name, treated, control, treated + control)
            for name, treated, control in zip(CLASSES, planned[::2], planned[1::2], strict=True)
        )
    )
    compared = comparison(counts, has_baseline=True)
    found = measure(POLICY.gates, counts, compared, grouped(rows))
    expected = measured_by_rows(POLICY.gates, counts, compared, rows)
    assert asked(POLICY.gates, found, compared) == asked(POLICY.gates, expected, compared)
    assert found.crashes == expected.crashes


def test_measure__a_gate_without_a_limit_and_devices_with_a_past__values_as_measured_are_left_out() -> None:
    rows = [
        DeviceRow(f"{side}-{i}", "edge-std", side, {"accuracy": Total(i % 7, 10)}, {"accuracy": Total(i % 7, 9)})
        for side in Side
        for i in range(30)
    ]
    counts = PhaseCounts((ClassCount("edge-std", 30, 30, 60),))
    gates = RolloutPolicy.parse({"phases": [{"share": 1.0}], "gates": {"accuracy": GATES["accuracy"]}}).gates
    found = measure(gates, counts, comparison(counts, has_baseline=True), grouped(rows)).of("accuracy", "all classes")
    assert found.theta is not None
    assert found.treated.raw.devices == 0
