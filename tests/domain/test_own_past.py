"""Treated devices against their own time before, in a phase that leaves no control."""

from fleet.domain.gate import judge
from fleet.domain.measurements import Measured, Measures
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.samples import Location, Sample
from fleet.domain.verdicts import Carried, ClassCount, GateResult, Kind, PhaseCounts, PhaseFacts, Verdict

POLICY = RolloutPolicy.parse({"phases": [{"share": 0.5}, {"share": 1.0}], "gates": {"accuracy": {"margin_points": 2}}})
ALONE = RolloutPolicy.parse({"phases": [{"share": 1.0}], "gates": {"accuracy": {"margin_points": 2}}})
PASSED = {"accuracy": Carried(0, Verdict.PASS, "PASS: it was as good as the control's")}


def place(value: float, devices: int = 200) -> Location:
    return Location(devices, value, 0.05**2)


def result(plain: float, trimmed: float, *, carried: bool, at_deadline: bool = False) -> GateResult:
    """Of the last phase, in which all devices are treated."""
    own = Measured(own_past=Sample(place(plain), place(trimmed)))
    facts = PhaseFacts(
        phase=1 if carried else 0,
        counts=PhaseCounts((ClassCount("edge-std", 200, 0, 200),)),
        measures=Measures({("accuracy", "all classes"): own}),
        carried=PASSED if carried else {},
        at_deadline=at_deadline,
    )
    judged = judge(POLICY if carried else ALONE, facts)
    (found,) = [item for item in judged.results if item.kind is Kind.OWN_PAST]
    return found


def test_own_past__worse_after_the_control_passed__holds_and_does_not_fail() -> None:
    """A season hits everybody: the version is not reverted for it."""
    found = result(-0.06, -0.06, carried=True)
    assert (found.verdict, found.counts) == (Verdict.INCONCLUSIVE, True)
    assert "a person has to decide" in found.sentence


def test_own_past__worse_and_nothing_else_was_compared__fails() -> None:
    found = result(-0.06, -0.06, carried=False)
    assert found.verdict is Verdict.FAIL
    assert "points lower than the same devices before" in found.sentence


def test_own_past__worse_without_the_extremes_only__is_not_proven() -> None:
    assert result(-0.005, -0.06, carried=False).verdict is Verdict.WAIT
    assert result(-0.005, -0.06, carried=False, at_deadline=True).verdict is Verdict.INCONCLUSIVE


def test_own_past__as_before__passes() -> None:
    assert result(0.0, 0.0, carried=False).verdict is Verdict.PASS


def test_own_past__unproven_after_the_control_passed__nobody_waits_for_it() -> None:
    found = result(-0.02, -0.02, carried=True, at_deadline=True)
    assert (found.verdict, found.counts) == (Verdict.INCONCLUSIVE, False)
