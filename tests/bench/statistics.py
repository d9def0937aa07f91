"""The benchmark of verdicts: `python -m tests.bench.statistics [--runs N] [--json OUT] [--only NAME,NAME]`.

Simulated fleets go through rollouts that the product's own functions judge (`conductor.decide`, `gate.judge`). Counted
are good versions that were reverted and bad ones that were caught, with 95% Clopper-Pearson bounds, beside a z-test of
single inferences, a plain threshold on the difference, and one test at each phase's end. Seeds are fixed: the same
command gives the same figures.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Final

from fleet.domain.policy import RolloutPolicy
from tests.bench.statistics_fleet import CLASSES, Lie, World
from tests.bench.statistics_runs import Outcome, Plan, simulate

# At margin zero a version that changes nothing stands at the very edge of what may fail: the hardest case.
EDGE: Final = Plan(margin_points=0.0, latency_margin_points=0.0)
MARGIN: Final = Plan()
DROP: Final = -(MARGIN.margin_points + 5) / 100
BOUND_LEVEL: Final = 0.05
# Nineteen of twenty devices have at least 50 labels when the phase ends. With ten a look and volumes further apart, only half
# have, and of those who hide a drop behind a tenth of liars four of five are caught.
LABELLED: Final = World(labels=15.0, volume_sd=0.3)


@dataclass(frozen=True)
class Scenario:
    """One world and plan, and what is asked of the product in it: `caught` shares are at least the target, others at most."""

    key: str
    says: str
    world: World
    plan: Plan
    target: float
    is_power: bool = False


_FIRST: Final = replace(MARGIN, first_phase_only=True)
SCENARIOS: Final = (
    Scenario("aa_false_revert_daily", "no change, margin 0, 30 daily looks", World(), EDGE, 0.01),
    Scenario(
        "power_accuracy_5pt",
        "accuracy falls by margin + 5 points",
        replace(LABELLED, accuracy_change=DROP),
        _FIRST,
        0.95,
        True,
    ),
    Scenario(
        "power_p95_doubled", "twice as many slow inferences", replace(LABELLED, slow_times=2.0), _FIRST, 0.95, True
    ),
    Scenario("liars_false_revert", "no change, a tenth want a stop", World(liars=0.1, lie=Lie.STOP), MARGIN, 0.02),
    Scenario(
        "liars_power",
        "margin + 5 points lost, a tenth hide it",
        replace(LABELLED, liars=0.1, lie=Lie.HIDE, accuracy_change=DROP),
        _FIRST,
        0.90,
        True,
    ),
    Scenario(
        "simpson_false_revert",
        "a point better while all get worse from phase to phase",
        World(accuracy_change=0.01, drift=(0.0, -0.02, -0.04, -0.05, -0.06)),
        MARGIN,
        0.0,
    ),
    Scenario("aa_false_revert_margin", "no change, margin 2 points, 30 daily looks", World(), MARGIN, 0.01),
    Scenario(
        "aa_false_revert_no_control",
        "no change and no control: their own past alone",
        World(devices=2_000),
        replace(MARGIN, control_share=0.0),
        0.01,
    ),
    Scenario(
        "aa_false_revert_minutely",
        "no change, margin 0, 1,000 looks a minute apart",
        World(devices=1_000, classes=CLASSES[:2], labels=0.3, inferences=6.0, crashes=1e-5, past_looks=200),
        replace(EDGE, looks=200, is_screened=True),
        0.01,
    ),
)


def main(words: Sequence[str]) -> int:
    """Simulate, print, write; 0 if every target is met."""
    arguments = _arguments(words)
    document: dict[str, Any] = {"runs": arguments.runs, "devices": World().devices, "scenarios": {}}
    began = time.monotonic()
    with get_context("spawn").Pool(arguments.processes) as pool:
        for scenario in SCENARIOS:
            if arguments.only and scenario.key not in arguments.only:
                continue
            jobs = [(scenario, seed) for seed in range(arguments.runs)]
            outcomes = pool.map(_simulated, jobs, chunksize=max(1, min(20, arguments.runs // 8)))
            found = summary(scenario, outcomes)
            document["scenarios"][scenario.key] = found
            document[scenario.key] = found["share"]
            document["naive_false_revert_daily"] = document["scenarios"].get(SCENARIOS[0].key, {}).get("naive_share")
            document["seconds"] = round(time.monotonic() - began, 1)
            print(_line(scenario, found), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    for miss in misses(document):
        print(f"MISSED: {miss}", flush=True)
    return 1 if any(misses(document)) else 0


def summary(scenario: Scenario, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the runs of one scenario came to. Looks are counted from the rollout's start; medians are of those that ended so."""
    runs = len(outcomes)
    reverted = [item for item in outcomes if item.reverted_look is not None]
    low, high = clopper_pearson(len(reverted), runs)
    looks = [item.reverted_look for item in reverted if item.reverted_look is not None]
    reasons: dict[str, int] = {}
    for item in reverted:
        for name in item.gates:
            reasons[name] = reasons.get(name, 0) + 1
    return {
        "says": scenario.says,
        "runs": runs,
        "devices": scenario.world.devices,
        "looks": scenario.plan.looks * (1 if scenario.plan.first_phase_only else len(scenario.plan.shares)),
        "reverted": len(reverted),
        "share": len(reverted) / runs,
        "lower95": low,
        "upper95": high,
        "target": scenario.target,
        "is_met": len(reverted) / runs >= scenario.target
        if scenario.is_power
        else len(reverted) / runs <= scenario.target,
        "median_look": median(looks) if looks else None,
        "median_treated": median(item.treated for item in reverted) if reverted else None,
        "reasons": dict(sorted(reasons.items(), key=lambda item: -item[1])[:8]),
        "naive_share": _share(item.naive_look for item in outcomes),
        "threshold_share": _share(item.threshold_look for item in outcomes),
        "threshold_median_look": _median_of(item.threshold_look for item in outcomes),
        "fixed_share": _share(item.fixed_look for item in outcomes),
        "fixed_median_look": _median_of(item.fixed_look for item in outcomes),
        "phases_passed_by_themselves": sum(item.passed_phases for item in outcomes) / runs,
        "looks_judged": sum(item.judged for item in outcomes),
        "world": {key: value for key, value in asdict(scenario.world).items() if key != "classes"},
        "policy": _policy(scenario.plan.policy),
    }


def clopper_pearson(events: int, runs: int, level: float = BOUND_LEVEL) -> tuple[float, float]:
    """One-sided bounds of a share, each with error `level` (Clopper and Pearson, Biometrika 26, 1934)."""
    lower = 0.0 if events == 0 else _solve(lambda p: 1 - _at_most(events - 1, runs, p) < level)
    upper = 1.0 if events == runs else _solve(lambda p: _at_most(events, runs, p) > level)
    return lower, upper


def _solve(is_below: Any) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low


def _at_most(events: int, runs: int, share: float) -> float:
    """The chance of at most so many."""
    if share in (0.0, 1.0):
        return 1.0 if share == 0.0 or events >= runs else 0.0
    terms = (
        math.lgamma(runs + 1)
        - math.lgamma(k + 1)
        - math.lgamma(runs - k + 1)
        + k * math.log(share)
        + (runs - k) * math.log1p(-share)
        for k in range(events + 1)
    )
    return math.fsum(math.exp(term) for term in terms)


def misses(document: Mapping[str, Any]) -> Iterator[str]:
    """The targets that were missed, each as a sentence."""
    for key, found in document["scenarios"].items():
        if not found["is_met"]:
            yield f"{key}: {found['share']:.2%} of {found['runs']} runs, target {found['target']:.0%}"


def _simulated(job: tuple[Scenario, int]) -> Outcome:
    scenario, seed = job
    return simulate(scenario.world, scenario.plan, seed)


def _share(looks: Iterator[int | None]) -> float:
    found = list(looks)
    return sum(item is not None for item in found) / len(found)


def _median_of(looks: Iterator[int | None]) -> float | None:
    found = [item for item in looks if item is not None]
    return median(found) if found else None


def _policy(policy: RolloutPolicy) -> dict[str, object]:
    encoded = policy.encode()
    return {key: encoded[key] for key in ("phases", "control_share", "gates", "alpha")}


def _line(scenario: Scenario, found: Mapping[str, Any]) -> str:
    word = "caught" if scenario.is_power else "reverted"
    bound = f"at least {found['lower95']:.1%}" if scenario.is_power else f"at most {found['upper95']:.2%}"
    when = (
        "" if found["median_look"] is None else f", look {found['median_look']:g}, {found['median_treated']:g} treated"
    )
    return (
        f"{scenario.key:26} {scenario.says:55} {word} {found['share']:7.2%} ({bound}){when}; z-test of inferences "
        f"{found['naive_share']:.1%}, threshold {found['threshold_share']:.1%}, one test a phase {found['fixed_share']:.1%}; "
        f"{found['phases_passed_by_themselves']:.1f} phases passed"
    )


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.statistics", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000, help="of each scenario (default 1000)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAME,NAME")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
