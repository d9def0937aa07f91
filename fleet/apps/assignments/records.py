"""What `assignments` tells others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from device_client.wire.bucketing import BucketRange
from device_client.wire.director import Binding
from device_client.wire.shadow import ShadowBudget
from fleet.apps.trust.records import DirectorTarget
from fleet.domain.assign import Step
from fleet.domain.delivery import Delivery
from fleet.domain.facts import Denied, Holdback, RuleState
from fleet.domain.filters.filter import Filter
from fleet.domain.filters.predicate import Described
from fleet.domain.reach import Reach


@dataclass(frozen=True)
class StopRecord:
    """A stop in force. `scope` is a model, a namespace, or `*` for everything."""

    scope: str
    reason: str
    created_by: str
    created_at: datetime


@dataclass(frozen=True)
class ArmRecord:
    """One arm of an experiment's rule: the devices in these buckets get this version, unless it `is_dropped`."""

    name: str
    version_id: int
    buckets: BucketRange
    is_dropped: bool = False


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
    class_ends: Mapping[str, int] = field(default_factory=dict)
    listed: tuple[str, ...] = ()
    denied: Denied = field(default_factory=Denied)
    holdback: Holdback = field(default_factory=Holdback)
    delivery: Delivery = field(default_factory=Delivery)
    together: tuple[str, ...] = ()
    shadow: ShadowBudget | None = None
    expected: int = 0

    @property
    def reach(self) -> Reach:
        """Whom the present phase treats and compares with."""
        return Reach(self.treated_end, self.control_start, self.class_ends, frozenset(self.listed))

    @property
    def reached(self) -> tuple[BucketRange, ...]:
        """The buckets that get a version of this rule, on some hardware class at least."""
        found = tuple(arm.buckets for arm in self.arms) or (BucketRange(0, self.reach.widest_end),)
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
    hardware_classes: frozenset[str]
    groups: frozenset[str]
    slow_ms: float
    filter: Filter | None = None
    arms: tuple[ArmView, ...] = ()
    metrics: Mapping[str, str] | None = None

    def counts(self, metric: str) -> bool:
        """Whether a built-in metric is counted for the rule."""
        return self.metrics is None or metric in self.metrics

    source: str = ""
    priority: int = 0
    reach: Reach = field(default_factory=lambda: Reach(0))
    denied: Denied = field(default_factory=Denied)
    is_shadow: bool = False

    def arm_at(self, place: int) -> ArmView | None:
        """The arm of the device in this bucket."""
        return next((arm for arm in self.arms if place in arm.buckets), None)

    def claims(self, device: Described, place: int) -> bool:
        """Whether the device in bucket `place` is treated by this rule or compared with those who are."""
        if self.arms:
            return self.arm_at(place) is not None
        return self.reach.treats(device.device_id, device.hardware_class, place) or place >= self.reach.control_start

    def covers(self, device: Described) -> bool:
        """Whether this device belongs to the rule's population."""
        if self.hardware_classes and device.hardware_class not in self.hardware_classes:
            return False
        if self.groups and self.groups.isdisjoint(device.groups):
            return False
        if device.device_id in self.denied.devices or not self.denied.groups.isdisjoint(device.groups):
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
