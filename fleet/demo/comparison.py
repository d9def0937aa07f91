"""The demo's A/B test: what a user types and what the server answers, in figures for the report."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fleet.demo.control_plane import ControlPlane
from fleet.demo.fleet_plan import MODEL
from fleet.demo.progress import Progress, StoryError

ENDED: Final = frozenset({"decided", "stopped"})


class Comparison:
    """One experiment, from its specification to the rollout of its winner."""

    def __init__(self, control: ControlPlane, progress: Progress, directory: Path) -> None:
        self._control = control
        self._progress = progress
        self._directory = directory
        self._id = ""

    def start(self, spec: Mapping[str, object], seed: str) -> None:
        """Draft it, look at what it can see, and start it."""
        path = self._directory / "experiment.json"
        path.write_text(json.dumps(spec, indent=2))
        self._id = str(self._control.modelfleet("experiment", "create", MODEL, "--spec", str(path))["id"])
        plan = self._control.modelfleet("experiment", "plan", self._id, "--seed", seed)
        for item in plan["sizes"]:
            self._progress.say(f"plan: {item['sentence']}")
        started = self._control.modelfleet("experiment", "start", self._id, "--seed", seed)
        self._progress.say(f"experiment {self._id}: {started['because']}")

    def verdict(self, within_s: float, alive: Callable[[], None]) -> None:
        """Wait for it; raises `StoryError` for any but ship."""

        def look() -> str:
            alive()
            return str(self._control.get(f"experiments/{self._id}")["state"])

        self._progress.wait(
            f"the verdict of experiment {self._id}",
            look,
            lambda state: state in ENDED,
            within_s=within_s,
            tell=lambda _: "",
        )
        experiment = self._control.get(f"experiments/{self._id}")
        if experiment["verdict"] != "ship":
            raise StoryError(f"expected the verdict ship, got {experiment['verdict']}: {experiment['because']}")
        self._progress.decided("verdict", experiment["because"])

    def promote(self, policy: Mapping[str, object]) -> str:
        """Turn the winner into a rollout from its share; returns the rollout's id."""
        path = self._directory / "policy-winner.json"
        path.write_text(json.dumps(policy, indent=2))
        promoted = self._control.modelfleet("experiment", "promote", self._id, "--policy", str(path))
        self._progress.say(promoted["because"])
        return str(promoted["rollout"])

    def figures(self) -> dict[str, Any]:
        """The verdict with its interval, and the check of the arms' sizes, as the server froze them."""
        experiment = self._control.get(f"experiments/{self._id}")
        results = self._control.get(f"experiments/{self._id}/results")
        (accuracy,) = [item for item in results["comparisons"] if item["role"] == "success"]
        return {
            "id": self._id,
            "state": experiment["state"],
            "verdict": experiment["verdict"],
            "winner": experiment["winner"],
            "metric": accuracy["metric"],
            "value": accuracy["value"],
            "lower": accuracy["lower"],
            "upper": accuracy["upper"],
            "p_adjusted": accuracy["p_adjusted"],
            "devices": {arm["name"]: arm["offered"] for arm in results["arms"]},
            "srm": {
                "mismatch": results["assigned"]["rejected"] or results["reporting"]["rejected"],
                "p": results["assigned"]["p"],
                "assigned": results["assigned"]["counts"],
                "reporting": results["reporting"]["counts"],
            },
            "guardrails": [item["sentence"] for item in results["comparisons"] if item["role"] == "guardrail"],
        }
