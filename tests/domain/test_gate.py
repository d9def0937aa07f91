"""The verdict table: what each gate says of which facts, and that no evidence is never a pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fleet.domain.gate import judge as judge_facts
from fleet.domain.measure import measure
from fleet.domain.measurements import DeviceRow, Side, Total
from fleet.domain.policy import RolloutPolicy
from fleet.domain.strata import comparison
from fleet.domain.verdicts import (
    Carried,
    ClassCount,
    GateResult,
    Judgement,
    Kind,
    OfferCount,
    PhaseCounts,
    PhaseFacts,
    Verdict,
)

PHASES = [{"share": share, "deadline_s": 600} for share in (0.25, 0.5, 1.0)]
P, F, W, INC = Verdict.PASS, Verdict.FAIL, Verdict.WAIT, Verdict.INCONCLUSIVE


def policy(**gates: dict[str, Any]) -> RolloutPolicy:
    return RolloutPolicy.parse({"phases": PHASES, "gates": gates})


def offers(offered: int, committed: int, failed: int = 0, silent: int = 0, name: str = "edge-std") -> OfferCount:
    return OfferCount(name, offered=offered, committed=committed, failed=failed, silent=silent)


def counts(treated: int = 4, control: int = 8, population: int = 16, name: str = "edge-std") -> ClassCount:
    return ClassCount(name, treated, control, population)


def rows(
    side: Side, devices: int, share: float, each: int = 200, metric: str = "accuracy", **more: Any
) -> list[DeviceRow]:
    """Devices that differ by up to two points around `share`."""
    name = more.get("hardware_class", "edge-std")
    return [
        DeviceRow(
            f"{side.value}-{name}-{i:05}",
            name,
            side,
            {metric: Total(each * (share + 0.02 * (i % 3 - 1)), each)},
            more.get("before", {}),
        )
        for i in range(devices)
    ]


@dataclass(frozen=True)
class Seen:
    """Facts before they are measured, which takes a policy."""

    facts: PhaseFacts
    rows: tuple[DeviceRow, ...] = ()

    def under(self, the_policy: RolloutPolicy) -> PhaseFacts:
        compared = comparison(self.facts.counts, has_baseline=self.facts.has_baseline)
        return replace(self.facts, measures=measure(the_policy.gates, self.facts.counts, compared, self.rows))

    def but(self, **more: Any) -> "Seen":
        return replace(self, facts=replace(self.facts, **more))


def facts(*, rows: Sequence[DeviceRow] = (), **more: Any) -> Seen:
    given: dict[str, Any] = {"phase": 0, "counts": PhaseCounts((counts(),)), "offers": (offers(4, 4),)}
    return Seen(PhaseFacts(**{**given, **more}), tuple(rows))


def judge(the_policy: RolloutPolicy, seen: Seen) -> Judgement:
    return judge_facts(the_policy, seen.under(the_policy))


def one(the_policy: RolloutPolicy, seen: Seen, gate: str) -> GateResult:
    found = [result for result in judge(the_policy, seen).results if result.gate == gate]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("offer", "at_deadline", "verdict"),
    [
        (offers(4, 4), False, P),
        (offers(4, 3), False, W),  # needs 80% of 4
        (offers(4, 3), True, INC),
        (offers(0, 0), False, W),
        (offers(0, 0), True, INC),
        (offers(1, 0, failed=1), False, F),  # more than 10% of 4, whatever the others do
        (offers(4, 0, failed=4), False, F),
        (offers(2, 2), True, INC),
    ],
)
def test_install_gate__counts__verdict(*, offer: OfferCount, at_deadline: bool, verdict: Verdict) -> None:
    assert one(policy(), facts(offers=(offer,), at_deadline=at_deadline), "install_failures").verdict is verdict


def test_install_gate__large_phase_fails_from_the_start__stops_long_before_the_limit_is_reached() -> None:
    big = PhaseCounts((counts(10_000, 5_000, 100_000),))
    assert one(policy(), facts(counts=big, offers=(offers(12, 0, failed=12),)), "install_failures").verdict is F
    assert one(policy(), facts(counts=big, offers=(offers(12, 11, failed=1),)), "install_failures").verdict is W


def test_install_gate__one_class_fails_in_a_healthy_fleet__fails_for_that_class() -> None:
    both = (offers(1_000, 990), offers(40, 0, failed=40, name="edge-tiny"))
    big = PhaseCounts((counts(1_000, 500, 2_000), counts(40, 20, 80, "edge-tiny")))
    failed = judge(policy(), facts(counts=big, offers=both)).having(F)
    assert [(result.gate, result.stratum) for result in failed] == [("install_failures", "edge-tiny")]


def test_install_gate__every_device_of_all_at_once_refuses__fails() -> None:
    everyone = RolloutPolicy.parse({"preset": "all-at-once", "gates": {"install_failures": {"max_share": 0.95}}})
    whole = facts(counts=PhaseCounts((counts(16, 0),)))
    early = whole.but(offers=(offers(16, 0, failed=8),))
    assert one(everyone, early, "install_failures").verdict is W
    assert one(everyone, whole.but(offers=(offers(16, 0, failed=16),)), "install_failures").verdict is F


@pytest.mark.parametrize(
    ("silent", "at_deadline", "verdict"), [(0, False, P), (0, True, P), (2, False, W), (2, True, F)]
)
def test_silence_gate__silent_devices__count_as_failed_at_the_deadline(
    *,
    silent: int,
    at_deadline: bool,
    verdict: Verdict,
) -> None:
    seen = facts(offers=(offers(4, 2, silent=silent),), at_deadline=at_deadline)
    assert one(policy(), seen, "silence").verdict is verdict


def compared(treated: list[DeviceRow], control: list[DeviceRow], **more: Any) -> GateResult:
    gates = {"accuracy": {"margin_points": 5}}
    return one(policy(**gates), facts(rows=(*treated, *control), **more), "accuracy")


@pytest.mark.parametrize(
    ("treated_share", "at_deadline", "verdict"),
    [
        (0.93, False, P),
        (0.96, True, P),
        (0.40, False, F),
        (0.40, True, F),
        (0.85, False, W),  # on the margin
        (0.85, True, INC),
    ],
)
def test_accuracy_gate__against_the_control__verdict(
    *,
    treated_share: float,
    at_deadline: bool,
    verdict: Verdict,
) -> None:
    found = compared(rows(Side.TREATED, 4, treated_share), rows(Side.CONTROL, 8, 0.9), at_deadline=at_deadline)
    assert (found.verdict, found.kind) == (verdict, Kind.CONTROL)


def test_accuracy_gate__much_worse__sentence_is_for_operators() -> None:
    found = compared(rows(Side.TREATED, 4, 0.4), rows(Side.CONTROL, 8, 0.9))
    assert found.sentence.startswith("FAIL: accuracy is ")
    assert found.sentence.endswith(" points lower than the control's (margin 5); 4 and 8 devices")


def test_accuracy_gate__evidence__holds_what_the_verdict_was_made_of() -> None:
    evidence: Any = compared(rows(Side.TREATED, 4, 0.4), rows(Side.CONTROL, 8, 0.9)).evidence
    assert evidence["lower"] < evidence["value"] < evidence["upper"] < 0
    assert evidence["treated"]["devices"] == 4
    assert len(evidence["control"]["rows"]) == 8
    assert evidence["alpha"] == pytest.approx(0.01 * 0.8 / 2)


@pytest.mark.parametrize(
    ("treated", "control"),
    [
        (rows(Side.TREATED, 3, 0.4), rows(Side.CONTROL, 8, 0.9)),
        (rows(Side.TREATED, 4, 0.4), rows(Side.CONTROL, 7, 0.9)),
        (rows(Side.TREATED, 4, 0.4, each=19), rows(Side.CONTROL, 8, 0.9)),
        ([], []),
    ],
)
@pytest.mark.parametrize("at_deadline", [False, True])
def test_accuracy_gate__too_little_evidence__never_passes_or_fails(
    *,
    treated: list[DeviceRow],
    control: list[DeviceRow],
    at_deadline: bool,
) -> None:
    found = compared(treated, control, at_deadline=at_deadline)
    assert found.verdict is (INC if at_deadline else W)
    assert "needs 4 and 8" in found.sentence


def test_accuracy_gate__totals_that_cannot_be__are_left_out() -> None:
    forged = [DeviceRow("liar", "edge-std", Side.TREATED, {"accuracy": Total(900, 200)}), *rows(Side.TREATED, 4, 0.9)]
    evidence: Any = compared(forged, rows(Side.CONTROL, 8, 0.9)).evidence
    assert evidence["treated"]["devices"] == 4


def test_comparison__several_large_classes__each_has_a_verdict_of_its_own() -> None:
    """A version that is fine on one class and broken on another must not hide in the average."""
    classes = PhaseCounts((counts(100, 200, 400, "edge-std"), counts(20, 40, 80, "edge-tiny")))
    seen = (
        *rows(Side.TREATED, 100, 0.95),
        *rows(Side.CONTROL, 200, 0.9),
        *rows(Side.TREATED, 20, 0.6, hardware_class="edge-tiny"),
        *rows(Side.CONTROL, 40, 0.9, hardware_class="edge-tiny"),
    )
    judged = judge(policy(accuracy={"margin_points": 5}), facts(counts=classes, offers=(offers(120, 120),), rows=seen))
    found = {result.stratum: result.verdict for result in judged.results if result.gate == "accuracy"}
    assert found == {"all classes": P, "edge-std": P, "edge-tiny": F}
    assert judged.verdict is F


def test_comparison__small_classes__are_merged_and_it_says_so() -> None:
    classes = PhaseCounts((counts(2, 4, 7, "edge-std"), counts(2, 4, 9, "edge-tiny")))
    seen = (
        *rows(Side.TREATED, 2, 0.9),
        *rows(Side.CONTROL, 4, 0.9),
        *rows(Side.TREATED, 2, 0.9, hardware_class="edge-tiny"),
        *rows(Side.CONTROL, 4, 0.9, hardware_class="edge-tiny"),
    )
    judged = judge(policy(accuracy={"margin_points": 5}), facts(counts=classes, rows=seen))
    assert [result.stratum for result in judged.results if result.gate == "accuracy"] == ["all classes"]
    assert "edge-std, edge-tiny are compared together" in judged.notes[0]


def test_comparison__last_phase__carries_the_last_verdict() -> None:
    last = facts(
        phase=2,
        counts=PhaseCounts((counts(16, 0),)),
        offers=(offers(16, 16),),
        carried={"accuracy": Carried(1, P, "PASS: fine")},
    )
    found = one(policy(accuracy={"margin_points": 5}), last, "accuracy")
    assert (found.kind, found.verdict) == (Kind.CARRIED, P)
    assert found.sentence == "PASS: accuracy carried over from phase 2: PASS: fine"


@pytest.mark.parametrize("carried", [{}, {"accuracy": Carried(1, W, "WAIT: unsure")}])
def test_comparison__last_phase_without_a_pass_to_carry__is_no_pass(carried: dict[str, Carried]) -> None:
    last = facts(phase=2, counts=PhaseCounts((counts(16, 0),)), offers=(offers(16, 16),), carried=carried)
    accuracy = policy(accuracy={"margin_points": 5})
    assert one(accuracy, last, "accuracy").verdict is W
    assert judge(accuracy, last.but(at_deadline=True)).verdict is INC


def test_comparison__small_first_phase__is_left_to_the_later_ones() -> None:
    early = facts(counts=PhaseCounts((counts(1, 8),)), offers=(offers(1, 1),))
    judged = judge(policy(accuracy={"margin_points": 5}), early)
    assert judged.verdict is P
    assert "accuracy is not compared with a control in this phase" in judged.notes[0]


def test_comparison__first_install__limits_only() -> None:
    judged = judge(policy(accuracy={"margin_points": 5}), facts(has_baseline=False))
    assert judged.verdict is P
    assert "no earlier version" in judged.notes[0]


@pytest.mark.parametrize(
    ("share", "at_deadline", "verdict"),
    [(0.0, False, P), (0.04, False, P), (0.5, False, F), (0.07, False, W), (0.07, True, INC)],
)
def test_latency_gate__share_above_the_slo__verdict(*, share: float, at_deadline: bool, verdict: Verdict) -> None:
    slow = tuple(
        DeviceRow(
            f"t-{i}", "edge-std", Side.TREATED, {"slow": Total(1_000 * max(0.0, share + 0.01 * (i % 3 - 1)), 1_000)}
        )
        for i in range(8)
    )
    seen = facts(counts=PhaseCounts((counts(8, 8),)), offers=(offers(8, 8),), rows=slow, at_deadline=at_deadline)
    found = one(policy(latency={"slow_ms": 50, "max_slow_share": 0.05}), seen, "latency")
    assert (found.verdict, found.kind) == (verdict, Kind.LIMIT)


def test_latency_gate__no_windows_yet__waits() -> None:
    found = one(policy(latency={"slow_ms": 50, "max_slow_share": 0.05}), facts(), "latency")
    assert found.verdict is W
    assert found.sentence == "WAIT: latency is known from 0 devices, needs 4"


def test_latency_gate__slower_than_the_control__fails_by_its_margin() -> None:
    seen = (*rows(Side.TREATED, 4, 0.5, metric="slow"), *rows(Side.CONTROL, 8, 0.05, metric="slow"))
    found = one(policy(latency={"slow_ms": 50, "margin_points": 5}), facts(rows=seen), "latency")
    assert found.verdict is F
    assert "the share of inferences slower than 50 ms is" in found.sentence
    assert "points higher than the control's" in found.sentence


def test_accuracy_gate__floor__fails_below_it() -> None:
    seen = tuple(rows(Side.TREATED, 8, 0.3))
    bad = facts(counts=PhaseCounts((counts(8, 0),)), offers=(offers(8, 8),), rows=seen)
    assert one(policy(accuracy={"min_share": 0.8}), bad, "accuracy").verdict is F


def test_judgement__any_fail__beats_everything() -> None:
    judged = judge(policy(accuracy={"margin_points": 5}), facts(offers=(offers(4, 0, failed=4),)))
    assert judged.verdict is F
