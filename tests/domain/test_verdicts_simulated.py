"""A reduced form of `python -m tests.bench.statistics`: the same fleets and the product's own verdicts, fewer of them."""

from dataclasses import replace

import numpy as np
import pytest

from fleet.domain.gate_policy import CRASHES, Gates
from fleet.domain.measure import measure
from fleet.domain.measurements import DeviceRow, Measures, Side, Total, grouped
from fleet.domain.stats.samples import Location, Sample
from fleet.domain.strata import ALL_CLASSES, Comparison, comparison
from tests.bench.statistics import DROP, EDGE, MARGIN, SCENARIOS, clopper_pearson, misses, summary
from tests.bench.statistics_fleet import METRICS, Fleet, Lie, World
from tests.bench.statistics_runs import Outcome, Plan, simulate

SMALL = World(devices=1_000)
FIRST = replace(MARGIN, first_phase_only=True)


def rows(fleet: Fleet) -> list[DeviceRow]:
    """What the database would hold of this fleet."""
    found = []
    for place, member in enumerate(fleet.members):
        found.append(
            DeviceRow(
                device_id=f"dev-{member:05d}",
                hardware_class=fleet.world.classes[fleet.kind[member]].name,
                side=Side.TREATED if fleet.treated[member] else Side.CONTROL,
                totals={
                    **{name: Total(*(float(part[place]) for part in fleet.totals[name])) for name in METRICS},
                    CRASHES: Total(float(fleet.crashed[place]), float(fleet.looks)),
                },
                before={name: Total(*(float(part[member]) for part in fleet.past[name])) for name in fleet.past},
            )
        )
    return found


def places(measured: Measures, gates: Gates, compared: Comparison) -> dict[tuple[str, ...], Location]:
    """Every number that a gate may judge: of limits the treated, of margins the strata or, without any, the own past."""
    found: dict[tuple[str, ...], Location] = {}
    strata = {item.name for item in compared.strata}
    for gate in gates.measured:
        for (name, stratum), item in measured.by_gate.items():
            samples: list[tuple[str, Sample]] = []
            if name == gate.name and gate.limit is not None:
                samples.append(("as measured", item.treated.raw))
            if name == gate.name and gate.margin is not None and stratum in strata:
                samples += [("treated", item.treated.adjusted), ("control", item.control.adjusted)]
            if name == gate.name and gate.margin is not None and not strata and stratum == ALL_CLASSES:
                samples.append(("own past", item.own_past))
            for kind, sample in samples:
                found[name, stratum, kind, "plain"] = sample.plain
                found[name, stratum, kind, "trimmed"] = sample.trimmed
    return found


@pytest.mark.parametrize("world", [SMALL, replace(SMALL, past_looks=0), replace(SMALL, liars=0.1, lie=Lie.STOP)])
@pytest.mark.parametrize(("share", "looks"), [(0.02, 2), (0.25, 3), (1.0, 2)])
def test_simulated_arms__same_totals__as_the_product_adds_them_up(world: World, share: float, looks: int) -> None:
    fleet, policy = Fleet(world, 3), MARGIN.policy
    fleet.enter(0, share, 0.5)
    for _ in range(looks):
        fleet.look()
    counts = fleet.counts()
    simulated = fleet.measures(policy, counts)
    compared = comparison(counts, has_baseline=True)
    product = measure(policy.gates, counts, compared, grouped(rows(fleet)))
    expected, got = (places(item, policy.gates, compared) for item in (product, simulated))
    assert set(got) == set(expected)
    assert len(expected) >= 2 * len(policy.gates.measured)
    for key, place in expected.items():
        assert got[key].n == place.n, key
        for name in ("value", "unit_variance", "floor"):
            assert getattr(got[key], name) == pytest.approx(getattr(place, name), rel=1e-9, abs=1e-12), (key, name)
    assert sorted(simulated.crashes, key=str) == sorted(product.crashes, key=str)


def test_screened_looks__same_outcome__as_every_look_judged() -> None:
    """Looks that are skipped could not have failed the phase."""
    plan = replace(EDGE, looks=20, shares=(0.1, 0.5, 1.0))
    for world in (SMALL, replace(SMALL, accuracy_change=-0.04), replace(SMALL, slow_times=1.5)):
        for seed in range(3):
            every = simulate(world, plan, seed)
            screened = simulate(world, replace(plan, is_screened=True), seed)
            assert (screened.reverted_look, screened.gates) == (every.reverted_look, every.gates)
            assert screened.judged <= every.judged


def test_no_change_at_the_margin_s_edge__looked_at_daily__not_reverted() -> None:
    found = [simulate(SMALL, EDGE, seed) for seed in range(15)]
    assert [item.reverted_look for item in found] == [None] * 15
    assert all(item.completed and item.judged == 30 for item in found)
    naive = sum(item.naive_look is not None for item in found)
    assert naive >= 10, "a z-test of inferences should stop most of these good versions"


def test_accuracy_lost__first_phase_of_ten_thousand__caught() -> None:
    found = [simulate(World(accuracy_change=DROP), FIRST, seed) for seed in range(15)]
    assert sum(item.reverted_phase == 0 for item in found) >= 14
    assert all(item.treated < 130 for item in found if item.reverted_look)
    assert all(gate.startswith("accuracy") for item in found for gate in item.gates)


def test_tail_doubled__first_phase_of_ten_thousand__caught() -> None:
    found = [simulate(World(slow_times=2.0), FIRST, seed) for seed in range(15)]
    assert sum(item.reverted_phase == 0 for item in found) >= 14
    assert all(gate.startswith("latency") for item in found for gate in item.gates)


def test_a_tenth_lies_to_stop_a_good_version__not_reverted() -> None:
    world = World(devices=4_000, liars=0.1, lie=Lie.STOP)
    found = [simulate(world, MARGIN, seed) for seed in range(8)]
    assert [item.reverted_look for item in found] == [None] * 8
    assert all(item.threshold_look is not None for item in found), "a plain threshold should believe them"


def test_better_version_on_a_falling_ramp__never_reverted() -> None:
    world = World(devices=4_000, accuracy_change=0.01, drift=(0.0, -0.02, -0.04, -0.05, -0.06))
    assert not any(simulate(world, MARGIN, seed).reverted_look for seed in range(8))


# ---------------------------------------------------------------- the benchmark itself


@pytest.mark.parametrize(
    ("events", "runs", "lower", "upper"),
    [(0, 1_000, 0.0, 0.0029912), (1_000, 1_000, 0.9970088, 1.0), (5, 1_000, 0.0019721, 0.0104847)],
)
def test_clopper_pearson__bounds__as_tabulated(events: int, runs: int, lower: float, upper: float) -> None:
    """The first two in closed form: 1 - 0.05 ** (1 / n)."""
    assert list(clopper_pearson(events, runs)) == pytest.approx([lower, upper], abs=2e-6)


def test_summary__target_missed__said() -> None:
    wrongful, power = SCENARIOS[0], SCENARIOS[1]
    bad = summary(wrongful, [Outcome(reverted_look=3, gates=("accuracy on orin",)), *[Outcome()] * 9])
    weak = summary(power, [Outcome(reverted_look=3, treated=90), *[Outcome()] * 9])
    assert (bad["share"], bad["is_met"], bad["reasons"]) == (0.1, False, {"accuracy on orin": 1})
    said = list(misses({"scenarios": {wrongful.key: bad, power.key: weak}}))
    assert said == [
        "aa_false_revert_daily: 10.00% of 10 runs, target 1%",
        "power_accuracy_5pt: 10.00% of 10 runs, target 95%",
    ]


def test_same_seed__same_rollout() -> None:
    assert simulate(SMALL, Plan(), 7) == simulate(SMALL, Plan(), 7)
    assert not np.array_equal(Fleet(SMALL, 1).accuracy, Fleet(SMALL, 2).accuracy)
