"""Experiments and fleets for the tests of `fleet.domain.experiment*`."""

import random
from typing import Any

from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_findings import ArmOffer, ArmRow, Facts

DOCUMENT: dict[str, Any] = {
    "arms": [
        {"name": "control", "version": "1", "weight": 2},
        {"name": "candidate", "version": "2", "weight": 1},
    ],
    "share": 0.75,
    "success": {"accuracy": {"effect_points": 5, "min_labels_per_device": 30}},
    "guardrails": {
        "latency": {"slow_ms": 50, "margin_points": 5, "min_inferences_per_device": 30},
        "errors": {"margin_points": 3, "min_inferences_per_device": 30},
    },
    "min_duration_s": 10,
    "duration_s": 120,
}


def spec(**changes: Any) -> ExperimentSpec:
    """A quarter against half of the fleet."""
    return ExperimentSpec.parse({**DOCUMENT, **changes})


def rows(
    arm: str, devices: int, shares: dict[str, float], *, dice: random.Random, n: int = 200, spread: float = 0.0
) -> list[ArmRow]:
    """Every device's totals; `spread` is how much devices differ, as the standard deviation of their own share."""
    found = []
    for number in range(devices):
        for metric, share in shares.items():
            own = min(1.0, max(0.0, dice.gauss(share, spread))) if spread else share
            hits = sum(dice.random() < own for _ in range(n))
            found.append(ArmRow(arm, f"{arm}-{number}", "edge-std", metric, hits, n))
    return found


def facts(sizes: dict[str, int], shares: dict[str, dict[str, float]], *, seed: int = 1, n: int = 200) -> Facts:
    """A fleet of one class in which every assigned device installed its arm and reports."""
    dice = random.Random(seed)
    return Facts(
        planned={(arm, "edge-std"): count for arm, count in sizes.items()},
        offers=tuple(ArmOffer(arm, "edge-std", count, committed=count) for arm, count in sizes.items()),
        rows=tuple(row for arm, count in sizes.items() for row in rows(arm, count, shares[arm], dice=dice, n=n)),
    )
