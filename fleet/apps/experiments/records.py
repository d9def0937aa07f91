"""What `experiments` tells others."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fleet.apps.consent import ApprovalRecord
from fleet.domain.experiment_plan import ArmPlan, Sized
from fleet.domain.experiment_states import ExperimentState
from fleet.domain.failures import Failure
from fleet.domain.plan import Finding


@dataclass(frozen=True)
class ExperimentRecord:
    """One experiment. `spec` is JSON; `winner` names an arm; `rollout` is what a promotion became."""

    id: str
    model: str
    state: ExperimentState
    seed: str
    spec: Mapping[str, object]
    verdict: str
    winner: str
    because: str
    rule_id: int | None
    rollout: str | None
    revision: int
    created_by: str
    created_at: datetime
    started_at: datetime | None
    ends_at: datetime | None
    decided_at: datetime | None
    ended_at: datetime | None
    findings: tuple[Finding, ...] = ()
    approvals_required: int = 0
    approvals: tuple[ApprovalRecord, ...] = ()


@dataclass(frozen=True)
class PlanRecord:
    """A dry run: how many devices each arm would have, what its comparisons need, and what this fleet can see.

    `eligible` devices have a build of every arm; `refused` are those that have not, by the version that does not fit.
    Arms are counted with the given seed, or with a provisional one, at the moment `counted_at`.
    """

    experiment: str
    population: int
    eligible: int
    refused: Mapping[str, int]
    arms: tuple[ArmPlan, ...]
    sizes: tuple[Sized, ...]
    findings: tuple[Finding, ...]
    duration_s: float
    counted_at: datetime


@dataclass(frozen=True)
class ArmRecord:
    """One arm as it stands: its buckets, the devices that were planned for it, and what became of its offers.

    `dropped` says why it was dropped, empty if it was not.
    """

    name: str
    version: str
    is_control: bool
    start: int
    end: int
    planned: int
    offered: int
    committed: int
    failed: int
    rolled_back: int
    dropped: str = ""


@dataclass(frozen=True)
class ResultsRecord:
    """What an experiment shows now, or showed when it was decided (`frozen`).

    `assigned` and `reporting` say whether the arms are comparable; look there first. `comparisons` are estimates of
    treatment minus control with their intervals, per metric and class.
    """

    experiment: str
    at: datetime
    frozen: bool
    verdict: str
    winner: str
    sentence: str
    arms: tuple[ArmRecord, ...]
    assigned: Mapping[str, object]
    reporting: Mapping[str, object]
    comparisons: tuple[Mapping[str, object], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LookRecord:
    """The intervals over all classes at one moment: arm, metric, role, value, lower, upper of each."""

    at: datetime
    intervals: tuple[Mapping[str, object], ...]


@dataclass(frozen=True)
class DecisionRecord:
    """One decision with its frozen evidence."""

    id: int
    experiment: str
    model: str
    at: datetime
    action: str
    verdict: str
    actor: str
    sentence: str
    evidence: Mapping[str, object]


@dataclass(frozen=True)
class TickRecord:
    """One look of the conductor at all experiments under way."""

    decisions: tuple[DecisionRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
