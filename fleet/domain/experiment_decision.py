"""Decides what happens to an experiment next. Reads a snapshot, returns one frozen intent; a service applies it.

Order: the emergency stop, then arms that are not comparable, then harm, then a winner, then the end of the time. A harmful
arm is dropped, and the others go on; where no other treatment is left, the experiment stops. A
winner: at least one success metric better (or none asked for), every guardrail passes, nothing deteriorates, devices
fell on the arms as meant, among those that were assigned and among those that report (Schultzberg et al. 2024).
Nothing is decided twice: a winner stands, and only an experiment that ended without one may go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_analysis import analyse
from fleet.domain.experiment_findings import Analysis, Facts, Finding, Role
from fleet.domain.experiment_states import ExperimentState
from fleet.domain.strata import ALL_CLASSES


class Verdict(StrEnum):
    """How an experiment ends."""

    SHIP = "ship"
    HARM = "harm"
    MISMATCH = "mismatch"  # devices are not shared out as meant: its figures say nothing
    INCONCLUSIVE = "inconclusive"


class Action(StrEnum):
    """What the conductor can want."""

    WAIT = "wait"
    DECIDE = "decide"
    DROP = "drop"
    STOP = "stop"


@dataclass(frozen=True)
class Snapshot:
    """One experiment at one moment. `stop` is the reason of an emergency stop, if there is one."""

    state: ExperimentState
    spec: ExperimentSpec
    facts: Facts
    started_at: datetime
    ends_at: datetime
    stop: str = ""


@dataclass(frozen=True)
class Intent:
    """What to do, with the sentence for people and the evidence to freeze with it. `winner` is an arm's name, and
    `dropped` names arms, each with why.
    """

    action: Action
    sentence: str
    verdict: Verdict | None = None
    winner: str = ""
    evidence: Mapping[str, object] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)


def decide(snapshot: Snapshot, now: datetime) -> Intent:
    """The one intent for this moment. WAIT changes nothing."""
    if snapshot.state is not ExperimentState.RUNNING:
        return Intent(Action.WAIT, "")
    if snapshot.stop:
        return Intent(Action.STOP, f"stopped: {snapshot.stop}", evidence={"stop": snapshot.stop})
    spec, found = snapshot.spec, analyse(snapshot.spec, snapshot.facts)
    evidence = found.encode()
    if found.assigned.rejected:
        return Intent(Action.STOP, found.assigned.sentence, Verdict.MISMATCH, evidence=evidence)
    treatments = [arm.name for arm in spec.treatments if arm.name not in snapshot.facts.dropped]
    harmful = _harmful(found)
    if harmful:
        sentence = "; ".join(harmful.values())
        if len(harmful) == len(treatments):
            return Intent(Action.STOP, sentence, Verdict.HARM, evidence=evidence)
        return Intent(Action.DROP, sentence, Verdict.HARM, evidence=evidence, dropped=harmful)
    standing = {name: _standing(spec, found, name) for name in treatments}
    ready = [arm for arm, objection in standing.items() if not objection]
    earliest = snapshot.started_at + timedelta(seconds=spec.min_duration_s)
    if ready and now >= earliest:
        winner = max(ready, key=lambda arm: _effect(found, arm))
        return Intent(Action.DECIDE, _won(found, winner), Verdict.SHIP, winner, evidence)
    if now >= snapshot.ends_at:
        why = "; ".join(f"{arm}: {objection}" for arm, objection in standing.items())
        return Intent(Action.DECIDE, f"the time is over: {why}", Verdict.INCONCLUSIVE, evidence=evidence)
    if ready:
        left_s = (earliest - now).total_seconds()
        return Intent(
            Action.WAIT, f"{', '.join(ready)} would win; {left_s:.0f} s of the minimum remain", evidence=evidence
        )
    return Intent(
        Action.WAIT, "; ".join(f"{arm}: {objection}" for arm, objection in standing.items()), evidence=evidence
    )


def may_extend(state: ExperimentState, verdict: str) -> bool:
    """Whether more time can change anything: while it runs, and after an end without a winner."""
    decided_open = state is ExperimentState.DECIDED and verdict == Verdict.INCONCLUSIVE.value
    return state is ExperimentState.RUNNING or decided_open


def _harmful(found: Analysis) -> dict[str, str]:
    """The arms that are worse for sure, with all that says so."""
    said: dict[str, list[str]] = {}
    for item in found.comparisons:
        if item.finding is Finding.WORSE:
            said.setdefault(item.arm, []).append(item.sentence)
    return {arm: "; ".join(sentences) for arm, sentences in said.items()}


def _standing(spec: ExperimentSpec, found: Analysis, arm: str) -> str:
    """Why this arm does not ship yet; empty if it does."""
    success, guardrails = found.of(arm, Role.SUCCESS), found.of(arm, Role.GUARDRAIL)
    together = [item for item in success if item.stratum == ALL_CLASSES]
    if found.reporting.rejected:
        return found.reporting.sentence
    if spec.success and not any(item.finding is Finding.BETTER for item in together):
        return "; ".join(item.sentence for item in together)
    worse = [item for item in success if item.is_deteriorated]
    if worse:
        return "; ".join(item.sentence for item in worse)
    open_ = [
        item
        for item in (*guardrails, *found.of(arm, Role.INSTALLS))
        if item.stratum == ALL_CLASSES and item.finding is not Finding.PASS
    ]
    return "; ".join(item.sentence for item in open_)


def _effect(found: Analysis, arm: str) -> float:
    """How good an arm is, to choose among several that ship: the first success metric, in the good direction."""
    for item in found.of(arm, Role.SUCCESS):
        if item.stratum == ALL_CLASSES and item.finding is Finding.BETTER and item.value is not None:
            return item.value if item.higher_is_better else -item.value
    return 0.0


def _won(found: Analysis, winner: str) -> str:
    proof = [item for item in found.of(winner, Role.SUCCESS) if item.finding is Finding.BETTER]
    passed = [item for item in found.of(winner, Role.GUARDRAIL) if item.stratum == ALL_CLASSES]
    said = "; ".join(item.sentence for item in [*proof, *passed])
    return f"{winner} wins: {said}; {found.assigned.sentence}"
