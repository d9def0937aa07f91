"""Dry runs for people: at once on a small fleet, by a job on one whose count would keep them waiting."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from fleet.apps.experiments import moves
from fleet.apps.experiments.records import PlanRecord
from fleet.apps.experiments.starting import plan
from fleet.apps.jobs import answers
from fleet.apps.rollouts.starting import is_large
from fleet.domain.experiment_plan import ArmPlan, Sized
from fleet.domain.findings import Finding

JOB_KIND: Final = "experiment-dry-run"


def dry_run(*, experiment_id: str, now: datetime, seed: str | None = None) -> PlanRecord | None:
    """As `plan`; of a large fleet at most a minute old, and None while it is counted: ask again."""
    row = moves.found(experiment_id)
    if not is_large(row.model_id):
        return plan(experiment_id=experiment_id, now=now, seed=seed)
    found = answers.ask(kind=JOB_KIND, question={"experiment_id": experiment_id, "seed": seed}, now=now)
    return None if found is None else _decode(found.answer, found.answered_at)


def answer(payload: Mapping[str, Any], now: datetime) -> None:
    """The work of an `experiment-dry-run` job."""
    found = asdict(plan(experiment_id=payload["experiment_id"], seed=payload["seed"], now=now))
    del found["counted_at"]
    answers.give(payload=payload, answer=found, now=now)


def _decode(found: Mapping[str, Any], at: datetime) -> PlanRecord:
    return PlanRecord(
        experiment=found["experiment"],
        population=found["population"],
        eligible=found["eligible"],
        refused=found["refused"],
        arms=tuple(ArmPlan(**item) for item in found["arms"]),
        sizes=tuple(Sized(**item) for item in found["sizes"]),
        findings=tuple(Finding.decode(item) for item in found["findings"]),
        duration_s=found["duration_s"],
        counted_at=at,
    )
