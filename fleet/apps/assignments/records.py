"""What `assignments` tells others."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from device_client.wire.bucketing import BUCKETS, BucketRange
from device_client.wire.director import Binding
from fleet.apps.trust.records import DirectorTarget
from fleet.domain.assign import Step
from fleet.domain.facts import RuleState
from fleet.domain.filters.filter import Filter
from fleet.domain.filters.predicate import Described


@dataclass(frozen=True)
class StopRecord:
    """A stop in force. `scope` is a model, a namespace, or `*` for everything."""

    scope: str
    reason: str
    created_by: str
    created_at: datetime


@dataclass(frozen=True)
class ArmRecord:
    """One arm of an experiment's rule: the devices in these buckets get this version."""

    name: str
    version_id: int
    buckets: BucketRange


@dataclass(frozen=True)
class RuleRecord:
    """A rule as it is stored. `source` is the id of the rollout or experiment that made it."""

    id: int
    source: str
    model: str
    version_id: int
    state: RuleState
    seed: str
    phase: int
    phase_started_at: datetime | None
    treated_end: int
    control_start: int
    hardware_classes: tuple[str, ...]
    groups: tuple[str, ...]
    device_policy: Mapping[str, object]
    parameters: Mapping[str, str]
    allow_delta: bool
    delta_wait_s: float
    jitter_s: float
    priority: int
    created_at: datetime
    ended_at: datetime | None
    filter: str = ""
    arms: tuple[ArmRecord, ...] = ()

    @property
    def reached(self) -> tuple[BucketRange, ...]:
        """The buckets that get a version of this rule."""
        found = tuple(arm.buckets for arm in self.arms) or (BucketRange(0, self.treated_end),)
        return tuple(item for item in found if item.start < item.end)


@dataclass(frozen=True)
class ArmView:
    """One arm as ingest sees it."""

    name: str
    version: str
    buckets: BucketRange


@dataclass(frozen=True)
class RuleView:
    """A rule whose phase is being measured, as ingest sees it."""

    id: int
    model: str
    version: str
    seed: str
    phase: int
    phase_started_at: datetime
    treated_end: int
    control_start: int
    hardware_classes: frozenset[str]
    groups: frozenset[str]
    slow_ms: float
    filter: Filter | None = None
    arms: tuple[ArmView, ...] = ()
    metrics: Mapping[str, str] | None = None

    def counts(self, metric: str) -> bool:
        """Whether a built-in metric is counted for the rule."""
        return self.metrics is None or metric in self.metrics

    def arm_at(self, place: int) -> ArmView | None:
        """The arm of the device in this bucket."""
        return next((arm for arm in self.arms if place in arm.buckets), None)

    @property
    def treated(self) -> BucketRange:
        """The buckets that get the rule's version."""
        return BucketRange(0, self.treated_end)

    @property
    def control(self) -> BucketRange:
        """The buckets that are compared with them; a bucket in both ranges is treated."""
        return BucketRange(min(max(self.control_start, self.treated_end), BUCKETS), BUCKETS)

    def covers(self, device: Described) -> bool:
        """Whether this device belongs to the rule's population."""
        if self.hardware_classes and device.hardware_class not in self.hardware_classes:
            return False
        if self.groups and self.groups.isdisjoint(device.groups):
            return False
        return self.filter is None or self.filter.matches(device)


@dataclass(frozen=True)
class OfferCounts:
    """What became of a phase's offers on one hardware class. Intent to treat: everyone offered counts.

    `silent` are those of `pending` that were offered longer ago than the grace and gave no sign of life within it.
    """

    hardware_class: str
    offered: int
    committed: int
    failed: int
    rolled_back: int
    pending: int
    silent: int


@dataclass(frozen=True)
class ArmOffers:
    """What became of the offers to one arm of an experiment, on one hardware class."""

    arm: str
    counts: OfferCounts


@dataclass(frozen=True)
class OfferRecord:
    """One device's offer and what became of it."""

    device_id: str
    phase: int
    bucket: int
    hardware_class: str
    digest: str
    offered_at: datetime
    outcome: str
    failure: str
    outcome_at: datetime | None


@dataclass(frozen=True)
class AssignmentRecord:
    """What one device was last told for one model, and the steps that led to it."""

    device_id: str
    model: str
    version: str
    version_id: int | None
    digest: str
    rollout: str
    arm: str
    phase: int
    revision: int
    decision: str
    because: str
    trace: tuple[Step, ...]
    decided_at: datetime


@dataclass(frozen=True)
class CheckAnswer:
    """The answer to a check, ready to be signed. `tickets_for` are the blobs that the device will have to fetch."""

    binding: Binding
    targets: tuple[DirectorTarget, ...]
    tickets_for: tuple[str, ...]
