"""Which devices a rollout is about: counted once when it is planned and once per phase change, never inside a tick.

Reads every device of the model in pages. A device counts if it was seen lately, passes the policy's filters, and a
variant of the version fits what it probed of itself.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from device_client.wire.bucketing import bucket
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.messages import Capabilities
from fleet.apps.devices import selectors as devices
from fleet.apps.devices.records import DeviceChoice, DeviceRecord
from fleet.apps.registry.records import VersionRecord
from fleet.apps.rollouts.records import Refused
from fleet.domain.facts import Build
from fleet.domain.matching import match
from fleet.domain.plan import PlacedDevice
from fleet.domain.policy import RolloutPolicy

PAGE: Final = 1_000
EXAMPLES: Final = 5
ACTIVE: Final = "active"


@dataclass(frozen=True)
class Population:
    """The devices that take part, as (id, hardware class), and those that cannot."""

    members: tuple[tuple[str, str], ...]
    variants: Counter[str]
    refused: tuple[Refused, ...]

    @property
    def size(self) -> int:
        """All active devices within the filters."""
        return len(self.members) + sum(item.count for item in self.refused)

    def placed(self, seed: str) -> tuple[PlacedDevice, ...]:
        """The devices in their buckets under `seed`."""
        return tuple(PlacedDevice(name, bucket(seed, device_id)) for device_id, name in self.members)


def population(*, model: str, version: VersionRecord, policy: RolloutPolicy, now: datetime) -> Population:
    """Everyone whom the rollout concerns today."""
    builds = tuple(Build(variant.digest, variant.manifest) for variant in version.variants)
    since = now - timedelta(seconds=policy.active_within_s)
    members: list[tuple[str, str]] = []
    variants: Counter[str] = Counter()
    refused: dict[str, list[str]] = {}
    for device in _devices(model, policy):
        if device.last_seen_at is None or device.last_seen_at < since or not _covers(policy, device):
            continue
        found = match(builds, device.hardware_class, _capabilities(device))
        if found.build is None:
            refused.setdefault(found.why_not or "the version has no variants", []).append(device.id)
        else:
            variants[found.build.slug] += 1
            members.append((device.id, device.hardware_class))
    return Population(
        tuple(members),
        variants,
        tuple(
            Refused(reason, len(ids), tuple(ids[:EXAMPLES]))
            for reason, ids in sorted(refused.items(), key=lambda item: -len(item[1]))
        ),
    )


def _devices(model: str, policy: RolloutPolicy) -> Iterator[DeviceRecord]:
    choice, after = DeviceChoice(model=model, state=ACTIVE, filter=policy.filter), ""
    while page := devices.devices(choice=choice, after=after, limit=PAGE):
        yield from page
        after = page[-1].id


def _covers(policy: RolloutPolicy, device: DeviceRecord) -> bool:
    in_classes = not policy.hardware_classes or device.hardware_class in policy.hardware_classes
    return in_classes and (not policy.groups or bool(set(policy.groups) & set(device.groups)))


def _capabilities(device: DeviceRecord) -> Capabilities:
    try:
        return Capabilities.parse(Fields(device.capabilities, "capabilities"))
    except WireError:
        return Capabilities()
