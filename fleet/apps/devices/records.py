"""What `devices` tells others."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from device_client.wire.bundles import Contract
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.messages import Capabilities
from fleet.domain.filters.filter import Filter


@dataclass(frozen=True)
class DeviceModelRecord:
    """What a device last attested for one model. Empty strings: nothing yet."""

    model: str
    active_version: str
    active_digest: str
    weights_sha256: str
    target_version: str
    state: str
    failure: str
    detail: str
    revision: int
    active_since_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True)
class DeviceRecord:
    """One device with what it last said of itself."""

    id: str
    state: str
    hardware_class: str
    attributes: Mapping[str, str]
    capabilities: Mapping[str, object]
    client_version: str
    online: bool
    enrolled_at: datetime
    last_check_at: datetime | None
    last_seen_at: datetime | None
    groups: tuple[str, ...]
    models: tuple[DeviceModelRecord, ...]


@dataclass(frozen=True)
class DeviceChoice:
    """Which devices to list: all conditions that are given hold. `version` is what they attest for `model`.

    `silent_since` chooses those that gave no sign of life since then, `seen_since` the others, `filter` those that it
    means. Empty `hardware_classes`, `groups` and `ids` mean all; of `groups` one is enough. `unclaimed_by` leaves out
    whom one of these claims holds.
    """

    model: str = ""
    version: str | None = None
    hardware_class: str = ""
    state: str = ""
    online: bool | None = None
    group: str = ""
    search: str = ""
    silent_since: datetime | None = None
    filter: Filter | None = None
    seen_since: datetime | None = None
    hardware_classes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    not_ids: tuple[str, ...] = ()
    not_groups: tuple[str, ...] = ()
    unclaimed_by: tuple["Claim", ...] = ()


@dataclass(frozen=True)
class FoundDevices:
    """Some of the devices that were looked for, in order of id. `following` is the id after which to look on; empty: no more."""

    rows: tuple[DeviceRecord, ...]
    following: str


@dataclass(frozen=True)
class Claim:
    """Devices that something else has taken: of those chosen, whose buckets under `seed` are in `spans`, or `ids`.

    A span is (hardware class, start, end), half-open; without a class it is for all but those of `classes`.
    """

    choice: DeviceChoice
    seed: str
    spans: tuple[tuple[str, int, int], ...]
    classes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceBrief:
    """What consumers of messages need to know of a device. `is_active`: enrolled, not revoked, not quarantined.

    `given` were set at enrolment; `attributes` are the device's own word with those over it; `told` is how it described
    its capabilities.
    """

    id: str
    hardware_class: str
    is_active: bool
    groups: frozenset[str]
    given: Mapping[str, str]
    attributes: Mapping[str, str]
    told: Mapping[str, object]

    @property
    def capabilities(self) -> Capabilities:
        """What it told of itself; of a device that never did, nothing is known. Read when it is asked for."""
        try:
            return Capabilities.parse(Fields(self.told, "capabilities"))
        except WireError:
            return Capabilities()

    @property
    def device_id(self) -> str:
        """The id, as filters call it."""
        return self.id


@dataclass(frozen=True)
class EventRecord:
    """One line of a device's timeline. `report` is the report as it came."""

    at: datetime
    received_at: datetime
    model: str
    version: str
    rollout: str
    state: str
    report: Mapping[str, object]


@dataclass(frozen=True)
class RunningCount:
    """How many active devices of one hardware class attest one version of a model. Empty version: none yet.

    `silent` of them gave no sign of life since the moment that the caller named.
    """

    version: str
    hardware_class: str
    count: int
    online: int
    silent: int = 0


@dataclass(frozen=True)
class RunningCounts:
    """What the devices of a model run, as it was `counted_at` a moment that a large fleet's page has to name."""

    rows: tuple[RunningCount, ...]
    counted_at: datetime


@dataclass(frozen=True)
class DeviceCount:
    """How many devices of one class there are in one state; `silent` of them gave no sign of life since a moment."""

    hardware_class: str
    state: str
    online: bool
    devices: int
    silent: int


@dataclass(frozen=True)
class FleetCounts:
    """Active devices; those of them that are online, and those that have not been heard of for long."""

    total: int
    online: int
    away: int
    counted_at: datetime


@dataclass(frozen=True)
class Tally:
    """So many devices of one class that told the same of themselves and whose buckets lie between the same two edges.

    `segment` counts the edges at or below their buckets. `first` and `last` are the ids of two of them, or of one.
    """

    hardware_class: str
    capabilities: Mapping[str, object]
    segment: int
    contract: Mapping[str, object] | None
    devices: int
    first: str
    last: str


@dataclass(frozen=True)
class WeightsGroup:
    """Devices that run one weights file and are alike in what decides which variant and which patch they get."""

    weights_sha256: str
    hardware_class: str
    capabilities: Capabilities
    contract: Contract | None
    count: int


@dataclass(frozen=True)
class Traffic:
    """What updates to one variant took over the network, one way: sums of what devices said at the end of each.

    `updates` were installed, `failed` were not; `fallbacks` counts devices that gave up a patch of this codec. Bytes are of
    `updates`.
    """

    digest: str
    transport: str
    codec: str
    updates: int
    failed: int
    fallbacks: int
    bytes_received: int
    bytes_total: int
