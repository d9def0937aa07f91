"""Which devices a rollout is about: counted once when it is planned and once per phase change, never inside a tick.

One statement counts them where their rows are, by class, capabilities and place among the plan's ranges. A device counts
if it was seen lately, passes the policy's filters, and a variant of the version fits what it probed of itself; whether
one fits is decided once for devices that told the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.messages import Capabilities
from fleet.apps.devices import selectors as devices
from fleet.apps.devices.records import DeviceChoice
from fleet.apps.registry.records import VersionRecord
from fleet.apps.rollouts.records import Refused
from fleet.domain.facts import Build
from fleet.domain.matching import match
from fleet.domain.plan import PlacedDevices
from fleet.domain.policy import RolloutPolicy

EXAMPLES: Final = 5
ACTIVE: Final = "active"


@dataclass(frozen=True)
class Population:
    """The devices that take part, counted by class and place, and those that cannot."""

    placed: tuple[PlacedDevices, ...]
    variants: Counter[str]
    refused: tuple[Refused, ...]

    @property
    def eligible(self) -> int:
        """The devices that take part."""
        return sum(item.devices for item in self.placed)

    @property
    def size(self) -> int:
        """All active devices within the filters."""
        return self.eligible + sum(item.count for item in self.refused)


def population(
    *,
    model: str,
    versions: Sequence[VersionRecord],
    policy: RolloutPolicy,
    seed: str,
    places: Sequence[int],
    now: datetime,
) -> Population:
    """Everyone whom `policy` concerns today, placed under `seed` between the edges `places`, which rise.

    Who has no variant of one of the versions is refused, for the first such one. `variants` are those of the first.
    """
    builds = [
        (version.label, tuple(Build(variant.digest, variant.manifest) for variant in version.variants))
        for version in versions
    ]
    placed: Counter[tuple[str, int]] = Counter()
    variants: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    examples: dict[str, set[str]] = {}
    for tally in devices.tallies(choice=concerned(model, policy, now), seed=seed, edges=places):
        capabilities = _capabilities(tally.capabilities)
        found = [(label, match(items, tally.hardware_class, capabilities)) for label, items in builds]
        without = next(((label, item) for label, item in found if item.build is None), None)
        if without is not None:
            reason = without[1].why_not or "the version has no variants"
            reason = reason if len(versions) == 1 else f"version {without[0]} {reason}"
            refused[reason] += tally.devices
            examples.setdefault(reason, set()).update((tally.first, tally.last))
            continue
        place = places[tally.segment - 1] if tally.segment else 0
        placed[tally.hardware_class, place] += tally.devices
        variants.update({item.build.slug: tally.devices for _, item in found[:1] if item.build is not None})
    return Population(
        tuple(PlacedDevices(name, place, count) for (name, place), count in sorted(placed.items())),
        variants,
        tuple(
            Refused(reason, count, tuple(sorted(examples[reason])[:EXAMPLES]))
            for reason, count in refused.most_common()
        ),
    )


def concerned(model: str, policy: RolloutPolicy, now: datetime) -> DeviceChoice:
    """The devices that a policy means, whatever fits them."""
    return DeviceChoice(
        model=model,
        state=ACTIVE,
        seen_since=now - timedelta(seconds=policy.active_within_s),
        hardware_classes=policy.hardware_classes,
        groups=policy.groups,
        filter=policy.filter,
    )


def _capabilities(told: Mapping[str, object]) -> Capabilities:
    try:
        return Capabilities.parse(Fields(told, "capabilities"))
    except WireError:
        return Capabilities()
