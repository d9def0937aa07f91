"""How often experiments are wrong, and how often they find what is there: `python -m tests.bench.experiments`.

Simulated fleets, judged by the product's own `decide` at every look, one class, devices that differ (SD 5 points), as many
labels a day as the plan assumes. Prints for each world the share of experiments that shipped and that were stopped for
harm, with a 95% upper bound of each.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_decision import Action, Snapshot, decide
from fleet.domain.experiment_findings import ArmOffer, ArmRow, Facts
from fleet.domain.experiment_states import ExperimentState
from tests.bench.statistics import clopper_pearson

STARTED: Final = datetime(2026, 1, 1, tzinfo=UTC)
LOOKS: Final = 30
LABELS_PER_LOOK: Final = 20
DEVICE_SD: Final = 0.05
SPEC: Final[dict[str, Any]] = {
    "success": {"accuracy": {"effect_points": 2, "min_labels_per_device": 20}},
    "guardrails": {"errors": {"margin_points": 2}},
}


@dataclass(frozen=True)
class World:
    """Devices per arm and the true accuracy of each arm; the first arm is the control."""

    name: str
    devices: int
    accuracy: tuple[float, ...]


WORLDS: Final = (
    World("aa_12", 12, (0.85, 0.85)),
    World("aa_100", 100, (0.85, 0.85)),
    World("aa_five_arms", 40, (0.85,) * 5),
    World("better_3_points", 100, (0.85, 0.88)),
    World("worse_5_points", 100, (0.85, 0.80)),
)


def simulate(world: World, dice: random.Random) -> tuple[str, int]:
    """One experiment to its end: its verdict, and the look at which it came."""
    names = [f"arm{number}" for number in range(len(world.accuracy))]
    arms = [{"name": name, "version": str(number)} for number, name in enumerate(names)]
    spec = ExperimentSpec.parse({**SPEC, "arms": arms, "duration_s": LOOKS})
    own = {
        name: [min(0.99, max(0.01, dice.gauss(share, DEVICE_SD))) for _ in range(world.devices)]
        for name, share in zip(names, world.accuracy, strict=True)
    }
    hits = {name: [0.0] * world.devices for name in names}
    for look in range(1, LOOKS + 1):
        rows: list[ArmRow] = []
        seen = look * LABELS_PER_LOOK
        for name in names:
            for number, share in enumerate(own[name]):
                # The normal limit of a binomial draw: quick enough for thousands of experiments.
                drawn = dice.gauss(share * LABELS_PER_LOOK, (share * (1 - share) * LABELS_PER_LOOK) ** 0.5)
                hits[name][number] += min(float(LABELS_PER_LOOK), max(0.0, drawn))
                device = f"{name}-{number}"
                rows.append(ArmRow(name, device, "edge", "accuracy", hits[name][number], seen))
                rows.append(ArmRow(name, device, "edge", "errors", 0, seen))
        facts = Facts(
            planned={(name, "edge"): world.devices for name in names},
            offers=tuple(ArmOffer(name, "edge", world.devices, world.devices) for name in names),
            rows=tuple(rows),
        )
        ends_at = STARTED + timedelta(seconds=LOOKS)
        snapshot = Snapshot(ExperimentState.RUNNING, spec, facts, STARTED, ends_at)
        intent = decide(snapshot, STARTED + timedelta(seconds=look))
        if intent.action is not Action.WAIT:
            return str(intent.verdict), look
    return "wait", LOOKS


def main(words: Sequence[str]) -> int:
    """Simulate every world; 0 always: the figures speak, and the suite has a reduced form."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.experiments", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", metavar="OUT")
    options = parser.parse_args(words)
    results = []
    for world in WORLDS:
        ended = [simulate(world, random.Random(f"{world.name}:{run}")) for run in range(options.runs)]
        counts = Counter(verdict for verdict, _ in ended)
        shares = {
            verdict: {
                "share": counts[verdict] / options.runs,
                "at_most": clopper_pearson(counts[verdict], options.runs)[1],
            }
            for verdict in ("ship", "harm", "mismatch", "inconclusive")
        }
        looks = sorted(look for _, look in ended)
        results.append(
            {
                "world": world.name,
                "devices_per_arm": world.devices,
                "runs": options.runs,
                "median_look": looks[len(looks) // 2],
                **shares,
            }
        )
        told = ", ".join(
            f"{name} {100 * found['share']:.1f}% (<= {100 * found['at_most']:.1f}%)" for name, found in shares.items()
        )
        print(f"{world.name:16} {options.runs} runs, median look {looks[len(looks) // 2]} of {LOOKS}: {told}")
    if options.json:
        with open(options.json, "w") as out:  # noqa: PTH123 - a path as it was typed
            json.dump({"results": results}, out, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
