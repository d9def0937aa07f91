"""What `rollouts` tells others."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fleet.apps.consent import ApprovalRecord
from fleet.domain.conductor import Action
from fleet.domain.detectable import Detectable
from fleet.domain.failures import Failure
from fleet.domain.findings import Finding
from fleet.domain.rollout_states import RolloutState
from fleet.domain.verdicts import OfferCount, PhaseCounts, Verdict


@dataclass(frozen=True)
class RolloutRecord:
    """One rollout. `against` is the version that its control runs, None on a first install; `policy` is JSON.

    `share` is that of the buckets which the present phase treats, `reach` says whom in words. `steps_left` are those of
    a revert that goes back in steps.
    """

    id: str
    model: str
    version: str
    version_id: int
    against: str | None
    rule_id: int | None
    state: RolloutState
    seed: str
    policy: Mapping[str, object]
    phase: int
    phases: int
    share: float
    reach: str
    phase_started_at: datetime | None
    revision: int
    because: str
    created_by: str
    created_at: datetime
    started_at: datetime | None
    reverting_since_at: datetime | None
    ended_at: datetime | None
    findings: tuple[Finding, ...] = ()
    approvals_required: int = 0
    approvals: tuple[ApprovalRecord, ...] = ()
    ignores_quiet_hours: bool = False
    steps_left: int = 0


@dataclass(frozen=True)
class PhaseRecord:
    """One phase as it happened. Counts are zero until it `is_counted`; `verdict` and `judgement` are those at its end."""

    index: int
    share: float
    counts: PhaseCounts
    verdict: Verdict | None
    judgement: Mapping[str, object]
    started_at: datetime
    ended_at: datetime | None
    is_counted: bool = True


@dataclass(frozen=True)
class DecisionRecord:
    """One decision with its frozen evidence."""

    id: int
    rollout: str
    model: str
    version: str
    phase: int
    at: datetime
    action: str
    verdict: str
    actor: str
    sentence: str
    evidence: Mapping[str, object]


@dataclass(frozen=True)
class GatesRecord:
    """The gates of the present phase as they were seen `at` last, or as they stood when the rollout ended (`frozen`).

    `action` is what the conductor would do now and `sentence` says why. `gates` are the encoded results with their
    evidence: estimate, interval, margin, and the devices of each side.
    """

    rollout: str
    phase: int
    at: datetime
    frozen: bool
    verdict: Verdict
    action: Action
    sentence: str
    gates: tuple[Mapping[str, object], ...]
    notes: tuple[str, ...]
    counts: PhaseCounts
    offers: tuple[OfferCount, ...]
    earliest_at: datetime | None
    deadline_at: datetime | None


@dataclass(frozen=True)
class Refused:
    """Devices that would get nothing for the same reason, with some of their ids."""

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class PlanRecord:
    """A dry run: who would get what, in which phase, who gets nothing and why, and what the gates could see.

    `population` counts active devices that ask for the model and pass the filters; `eligible` those that a variant
    fits; `outside` are those that ask for the model and are not in the population. `words` say whom each phase reaches.
    Phases are counted with the given seed, or with a provisional one, at the moment `counted_at`.
    """

    model: str
    version: str
    against: str | None
    policy: Mapping[str, object]
    population: int
    eligible: int
    variants: Mapping[str, int]
    refused: tuple[Refused, ...]
    phases: tuple[PhaseCounts, ...]
    findings: tuple[Finding, ...]
    detectable: tuple[Detectable, ...]
    counted_at: datetime
    outside: tuple[Refused, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class TickRecord:
    """One look of the conductor at all rollouts under way."""

    is_leader: bool
    decisions: tuple[DecisionRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
