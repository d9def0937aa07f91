"""Dry runs for people: at once on a small fleet, by a job on one whose count would keep them waiting."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from fleet.apps.jobs import answers
from fleet.apps.registry import selectors as registry
from fleet.apps.rollouts.records import PlanRecord, Refused
from fleet.apps.rollouts.starting import is_large, plan, refuse_another_baseline
from fleet.domain.detectable import Detectable
from fleet.domain.findings import Finding
from fleet.domain.policy import RolloutPolicy
from fleet.domain.verdicts import ClassCount, PhaseCounts

JOB_KIND: Final = "dry-run"


def dry_run(
    *, model: str, version: str, policy: object, now: datetime, seed: str | None = None, against: str | None = None
) -> PlanRecord | None:
    """As `plan`; of a large fleet at most a minute old, and None while it is counted: ask again.

    Raises at once for a policy that cannot be read, a version that is not there, and a baseline that is another.
    """
    if not is_large(model):
        return plan(model=model, version=version, policy=policy, now=now, seed=seed, against=against)
    label = registry.resolve(model, version).label
    parsed = RolloutPolicy.parse(policy)
    refuse_another_baseline(model, parsed, against)
    question = {"model": model, "version": label, "policy": parsed.encode(), "seed": seed, "against": against}
    found = answers.ask(kind=JOB_KIND, question=question, now=now)
    return None if found is None else _decode(found.answer, found.answered_at)


def answer(payload: Mapping[str, Any], now: datetime) -> None:
    """The work of a `dry-run` job."""
    asked = {name: payload[name] for name in ("model", "version", "policy", "seed", "against")}
    found = asdict(plan(**asked, now=now))
    del found["counted_at"]
    answers.give(payload=payload, answer=found, now=now)


def _decode(found: Mapping[str, Any], at: datetime) -> PlanRecord:
    return PlanRecord(
        model=found["model"],
        version=found["version"],
        against=found["against"],
        policy=found["policy"],
        population=found["population"],
        eligible=found["eligible"],
        variants=found["variants"],
        refused=_refused(found["refused"]),
        phases=tuple(PhaseCounts(tuple(ClassCount(**one) for one in item["classes"])) for item in found["phases"]),
        findings=tuple(Finding.decode(item) for item in found["findings"]),
        detectable=tuple(Detectable(**item) for item in found["detectable"]),
        counted_at=at,
        outside=_refused(found["outside"]),
        words=tuple(found["words"]),
    )


def _refused(found: Sequence[Mapping[str, Any]]) -> tuple[Refused, ...]:
    return tuple(Refused(item["reason"], item["count"], tuple(item["examples"])) for item in found)
