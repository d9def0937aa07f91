"""What the assignment of a device is decided from: the device as it described itself, and the rules of a model.

Values only. Where they come from (a check, the tables of `devices`, `registry` and `assignments`) is the business of
the service that puts them together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from enum import StrEnum
from functools import cached_property

from device_client.wire.bucketing import BUCKETS, BucketRange, Seeded
from device_client.wire.bundles import Manifest
from device_client.wire.director import DevicePolicy
from device_client.wire.messages import Capabilities, Present, RunningModel
from device_client.wire.shadow import ShadowBudget
from fleet.domain.delivery import Delivery
from fleet.domain.filters.filter import Filter
from fleet.domain.reach import Reach


@dataclass(frozen=True)
class DeviceFacts:
    """One device. `models` is what it says it runs, by model name; a model that it never ran may be absent."""

    device_id: str
    hardware_class: str
    capabilities: Capabilities
    groups: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, RunningModel] = field(default_factory=dict)
    is_active: bool = True  # enrolled, neither revoked nor quarantined
    time_zone: tzinfo | None = None  # where it is, if it or whoever enrolled it said so
    present: Present = field(default_factory=Present)


@dataclass(frozen=True)
class Build:
    """One variant of a version: its manifest and the digest of the manifest's bytes."""

    digest: str
    manifest: Manifest

    @property
    def slug(self) -> str:
        """`onnx-int8-any`."""
        return self.manifest.variant.slug


class RuleState(StrEnum):
    """How a rule takes part in assignment."""

    RUNNING = "running"
    HELD = "held"  # keeps the devices that already run its version, takes no new ones
    COMPLETED = "completed"  # a baseline
    WITHDRAWN = "withdrawn"  # history


@dataclass(frozen=True)
class Denied:
    """Devices that a rule is never for, whatever else matches."""

    devices: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Holdback:
    """Buckets [start, BUCKETS) keep what they had after the rollout completed: for `for_s` seconds, or for ever if zero."""

    start: int = BUCKETS
    for_s: float = 0.0


@dataclass(frozen=True)
class RuleArm:
    """One arm of an experiment: devices in these buckets get this version. An arm of weight zero has no bucket, and one
    that was dropped gives its version to nobody any more.
    """

    name: str
    version: str
    version_id: int
    builds: tuple[Build, ...]
    buckets: BucketRange
    is_dropped: bool = False

    @property
    def digests(self) -> frozenset[str]:
        """The digests of all builds of its version."""
        return frozenset(build.digest for build in self.builds)


@dataclass(frozen=True)
class Rule:
    """One rule of one model. `source` is the id of the rollout or experiment that made it; `ended_at` orders completed
    rules.

    Devices in buckets [0, treated_end), or in their class's own range, or named, are treated; those in
    [control_start, BUCKETS) are the control. A rule with `arms` treats the devices of each arm with that arm's version
    instead; with a `shadow` budget, that version only runs beside what they are served. Empty filters match every device. `starts_at` in the future makes the answer "later". `together` names the
    models that a device gets all of or none of.
    """

    id: int
    source: str
    model: str
    version: str
    version_id: int
    builds: tuple[Build, ...]
    state: RuleState
    seed: str
    created_at: datetime
    phase: int = 0
    treated_end: int = 0
    control_start: int = BUCKETS
    hardware_classes: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    filter: Filter | None = None
    priority: int = 0
    starts_at: datetime | None = None
    ended_at: datetime | None = None
    device_policy: DevicePolicy = field(default_factory=DevicePolicy)
    parameters: Mapping[str, str] = field(default_factory=dict)
    allow_delta: bool = True
    jitter_s: float = 0.0
    arms: tuple[RuleArm, ...] = ()
    class_ends: Mapping[str, int] = field(default_factory=dict)
    listed: frozenset[str] = frozenset()
    denied: Denied = field(default_factory=Denied)
    holdback: Holdback = field(default_factory=Holdback)
    delivery: Delivery = field(default_factory=Delivery)
    together: frozenset[str] = frozenset()
    shadow: ShadowBudget | None = None

    def arm_at(self, place: int) -> RuleArm | None:
        """The arm of the device in this bucket; None for one that takes no part."""
        return next((arm for arm in self.arms if place in arm.buckets), None)

    def for_arm(self, arm: RuleArm) -> "Rule":
        """The rule as it concerns the devices of one arm."""
        return replace(self, version=arm.version, version_id=arm.version_id, builds=arm.builds)

    @cached_property
    def reach(self) -> Reach:
        """Whom it treats and compares with."""
        return Reach(self.treated_end, self.control_start, self.class_ends, self.listed)

    @cached_property
    def is_selective(self) -> bool:
        """Whether it is for some devices only."""
        chosen = self.hardware_classes or self.groups or self.denied.devices or self.denied.groups
        return bool(chosen) or self.filter is not None

    @cached_property
    def line(self) -> Seeded:
        """The order of devices under its seed."""
        return Seeded(self.seed)

    @cached_property
    def digests(self) -> frozenset[str]:
        """The digests of all builds of the rule's version."""
        return frozenset(build.digest for build in self.builds)
