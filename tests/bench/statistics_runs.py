"""One simulated rollout, judged look by look by the product: `conductor.decide`, and with it `gate.judge`.

A person advances whatever only holds, so that every phase is judged; a revert ends it. Beside the product stand the rules
that it is compared with, on the same data: a z-test of inferences, a plain threshold, and one test at the phase's end.
"""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fleet.domain.budget import Allotment, Spent
from fleet.domain.conductor import Action, Snapshot, decide
from fleet.domain.measurements import Measures, Side
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import RolloutState
from fleet.domain.verdicts import Carried, Kind, PhaseCounts, PhaseFacts, Verdict
from tests.bench.statistics_fleet import Fleet, World

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
LOOK_S: Final = 86_400.0
SHARES: Final = (0.01, 0.05, 0.25, 0.5, 1.0)
NAIVE_Z: Final = 2.326  # one-sided 1%
# What no gate can fail below, see `Rollout._is_calm`: its error is at most 0.00134, for which an interval spans at least
# sqrt(2 log(1 / 0.00268)) = 3.4 standard errors; and 5% of the devices must have crashed.
CALM_Z: Final = 3.2
CALM_CRASHES: Final = 0.04


@dataclass(frozen=True)
class Plan:
    """How the rollout goes: its policy's phases, and how many looks each of them has."""

    looks: int = 6
    shares: tuple[float, ...] = SHARES
    control_share: float = 0.5
    margin_points: float = 2.0
    latency_margin_points: float = 1.0
    min_labels: int = 20
    is_screened: bool = False
    first_phase_only: bool = False

    @property
    def policy(self) -> RolloutPolicy:
        """As an operator would write it."""
        phases = [
            {"share": share, "min_duration_s": (self.looks - 0.5) * LOOK_S, "deadline_s": self.looks * LOOK_S}
            for share in self.shares
        ]
        gates = {
            "accuracy": {"margin_points": self.margin_points, "min_labels_per_device": self.min_labels},
            "latency": {"slow_ms": 50, "margin_points": self.latency_margin_points},
            "errors": {"max_share": 0.02, "margin_points": min(1.0, self.latency_margin_points)},
            "crashes": {"max_share": 0.05, "max_ratio": 2},
            "install_failures": {"max_share": 0.1, "min_installed_share": 0.8},
            "silence": {"grace_s": 900, "max_share": 0.2},
        }
        return RolloutPolicy.parse({"phases": phases, "control_share": self.control_share, "gates": gates})


@dataclass
class Outcome:
    """What happened. A look is counted from 1 over all phases; None means never."""

    reverted_look: int | None = None
    reverted_phase: int | None = None
    treated: int = 0
    gates: tuple[str, ...] = ()
    completed: bool = False
    judged: int = 0
    naive_look: int | None = None
    threshold_look: int | None = None
    fixed_look: int | None = None
    passed_phases: int = 0


@dataclass
class Rollout:
    """One rollout on one fleet."""

    plan: Plan
    fleet: Fleet
    policy: RolloutPolicy = field(init=False)
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        self.policy = self.plan.policy
        self.spent = Spent()
        self.carried: dict[str, Carried] = {}

    def run(self) -> Outcome:
        """To its end."""
        looks = 0
        last = 1 if self.plan.first_phase_only else len(self.plan.shares)
        for phase in range(last):
            self.fleet.enter(phase, self.plan.shares[phase], self.plan.control_share)
            counts = self.fleet.counts()
            evidence: Any = None
            for look in range(1, self.plan.looks + 1):
                looks += 1
                self.fleet.look()
                self._others(looks, look)
                ends = look in {1, self.plan.looks}
                measures = self.fleet.measures(self.policy, counts)
                if self.plan.is_screened and not ends and self._is_calm(measures):
                    continue
                action, evidence = self._decide(phase, counts, measures, look)
                if action is Action.REVERT:
                    self._reverted(looks, phase, counts, evidence)
                    self._finish(looks, look)
                    return self.outcome
                if action in (Action.ADVANCE, Action.COMPLETE):
                    self.outcome.passed_phases += 1
            self._close(phase, evidence)
        self.outcome.completed = True
        return self.outcome

    def _decide(self, phase: int, counts: PhaseCounts, measures: Measures, look: int) -> tuple[Action, Any]:
        began = START + timedelta(seconds=phase * self.plan.looks * LOOK_S)
        facts = PhaseFacts(
            phase=phase,
            counts=counts,
            offers=self.fleet.offers(),
            measures=measures,
            watched=self.fleet.watched(),
            carried=self.carried,
            spent=self.spent,
        )
        seen = Snapshot(RolloutState.RUNNING, self.policy, facts, phase_started_at=began, clock_from=began)
        self.outcome.judged += 1
        intent = decide(seen, began + timedelta(seconds=look * LOOK_S))
        return intent.action, intent.evidence

    def _reverted(self, look: int, phase: int, counts: PhaseCounts, evidence: Any) -> None:
        self.outcome.reverted_look, self.outcome.reverted_phase = look, phase
        self.outcome.treated = counts.treated
        failed = [item for item in evidence["gates"] if item["verdict"] == Verdict.FAIL.value]
        self.outcome.gates = tuple(f"{item['name']} on {item['stratum']}" for item in failed)

    def _finish(self, looks: int, of_phase: int) -> None:
        """Let the other rules see the rest of the phase."""
        for more in range(1, self.plan.looks - of_phase + 1):
            self.fleet.look()
            self._others(looks + more, of_phase + more)

    def _close(self, phase: int, evidence: Any) -> None:
        """What the next phase is told of this one, as `apps.rollouts.snapshots` reads it from the rows."""
        self.spent = self.spent.plus(Allotment(**evidence["budget"]).spent)
        for gate in self.policy.gates.comparative:
            found = [item for item in evidence["gates"] if item["name"] == gate.name and item["kind"] == Kind.CONTROL]
            if found:
                verdicts = [Verdict(item["verdict"]) for item in found if not item["advisory"]]
                worst = next((verdict for verdict in verdicts if verdict is not Verdict.PASS), Verdict.PASS)
                self.carried[gate.name] = Carried(phase, worst, "")

    def _is_calm(self, measures: Measures) -> bool:
        """Whether no gate can fail at this look, so that asking it would change nothing (a test holds it to that)."""
        for gate in self.policy.gates.measured:
            sign = 1 if gate.higher_is_better else -1
            for (name, _), item in measures.by_gate.items():
                a, b = item.treated.adjusted.trimmed, item.control.adjusted.trimmed
                if name != gate.name or min(a.n, b.n) < 2:
                    continue
                error = math.sqrt(max(a.unit_variance / a.n + b.unit_variance / b.n, a.floor + b.floor))
                if sign * (b.value - a.value) > CALM_Z * error:
                    return False
        crashed = [item for item in measures.crashes if item.side is Side.TREATED]
        return sum(item.crashed for item in crashed) <= CALM_CRASHES * sum(item.devices for item in crashed)

    def _others(self, look: int, of_phase: int) -> None:
        """The rules that the product is compared with, on what all inferences and labels of the arms add up to."""
        for metric, ((s_t, n_t), (s_c, n_c)) in self.fleet.pooled().items():
            if metric == "errors" or min(n_t, n_c) < 100:
                continue
            worse = s_t / n_t - s_c / n_c if metric == "slow" else s_c / n_c - s_t / n_t
            margin = (self.plan.latency_margin_points if metric == "slow" else self.plan.margin_points) / 100
            share = (s_t + s_c) / (n_t + n_c)
            error = math.sqrt(max(share * (1 - share), 1e-9) * (1 / n_t + 1 / n_c))
            if self.outcome.naive_look is None and worse > NAIVE_Z * error:
                self.outcome.naive_look = look
            if self.outcome.threshold_look is None and worse > margin:
                self.outcome.threshold_look = look
            is_end = of_phase == self.plan.looks
            if self.outcome.fixed_look is None and is_end and worse > margin + NAIVE_Z * error:
                self.outcome.fixed_look = look


def simulate(world: World, plan: Plan, seed: int) -> Outcome:
    """One rollout, the same for the same seed."""
    return Rollout(plan, Fleet(world, seed)).run()
