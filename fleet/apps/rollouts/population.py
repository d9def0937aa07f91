"""Which devices a rollout is about: counted once when it is planned and once per phase change, never inside a tick.

One statement counts them where their rows are, by class, capabilities and place among the plan's ranges. A device counts
if it was seen lately, passes the policy's filters, and a variant of the version fits what it probed of itself; whether
one fits is decided once for devices that told the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from device_client.wire.bucketing import BUCKETS
from device_client.wire.bundles import Contract, parse_contract
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.messages import Capabilities
from fleet.apps.assignments import selectors as assignments
from fleet.apps.assignments.records import RuleView
from fleet.apps.devices import selectors as devices
from fleet.apps.devices.records import Claim, DeviceChoice, Tally
from fleet.apps.registry.records import VersionRecord
from fleet.apps.rollouts.records import Refused
from fleet.domain.facts import Build
from fleet.domain.matching import match
from fleet.domain.policy import RolloutPolicy
from fleet.domain.ramp import PlacedDevices

EXAMPLES: Final = 5
ACTIVE: Final = "active"
DAY_S: Final = 86_400


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
    rule_id: int | None = None,
) -> Population:
    """Everyone whom `policy` concerns today, placed under `seed` between the edges `places`, which rise.

    Who has no variant of one of the versions is refused, for the first such one. `variants` are those of the first.
    Devices that phases name are placed one by one. `rule_id` is the rollout's own rule, where it has one.
    """
    chosen = concerned(model, policy, now, rule_id)
    named = tuple(sorted({name for phase in policy.phases for name in phase.devices} - policy.denied.devices))
    tallies = list(devices.tallies(choice=replace(chosen, not_ids=(*chosen.not_ids, *named)), seed=seed, edges=places))
    if named:
        tallies += devices.one_by_one(choice=replace(chosen, ids=named), seed=seed, edges=places)
    builds = [
        (version.label, tuple(Build(variant.digest, variant.manifest) for variant in version.variants))
        for version in versions
    ]
    placed: Counter[tuple[str, int, str]] = Counter()
    variants: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    examples: dict[str, set[str]] = {}
    for tally in tallies:
        capabilities, contract = _capabilities(tally.capabilities), _contract(tally)
        found = [(label, match(items, tally.hardware_class, capabilities, contract)) for label, items in builds]
        without = next(((label, item) for label, item in found if item.build is None), None)
        if without is not None:
            reason = without[1].why_not or "the version has no variants"
            reason = reason if len(versions) == 1 else f"version {without[0]} {reason}"
            refused[reason] += tally.devices
            examples.setdefault(reason, set()).update((tally.first, tally.last))
            continue
        place = places[tally.segment - 1] if tally.segment else 0
        placed[tally.hardware_class, place, tally.first if tally.first in named else ""] += tally.devices
        variants.update({item.build.slug: tally.devices for _, item in found[:1] if item.build is not None})
    return Population(
        tuple(PlacedDevices(name, place, count, own) for (name, place, own), count in sorted(placed.items())),
        variants,
        tuple(
            Refused(reason, count, tuple(sorted(examples[reason])[:EXAMPLES]))
            for reason, count in refused.most_common()
        ),
    )


def concerned(model: str, policy: RolloutPolicy, now: datetime, rule_id: int | None = None) -> DeviceChoice:
    """The devices that a policy means, whatever fits them: those that no rule before its own has claimed."""
    return _narrowed(model, policy, now, rule_id)[-1][1]


def outside(model: str, policy: RolloutPolicy, now: datetime) -> tuple[Refused, ...]:
    """The devices that ask for the model and are not meant, by the first reason that holds. Two statements a reason."""
    found: list[Refused] = []
    wider = DeviceChoice(model=model)
    for reason, choice in _narrowed(model, policy, now, None):
        if choice != wider:
            count, examples = devices.some_of(choice=wider, beyond=choice, limit=EXAMPLES)
            if count:
                found.append(Refused(reason, count, examples))
        wider = choice
    return tuple(found)


def _narrowed(model: str, policy: RolloutPolicy, now: datetime, rule_id: int | None) -> list[tuple[str, DeviceChoice]]:
    """From all devices that ask for the model to those that the policy means: each step with what it leaves out."""
    steps: list[tuple[str, DeviceChoice]] = []
    choice = DeviceChoice(model=model)

    def step(reason: str, **changes: Any) -> None:
        nonlocal choice
        choice = replace(choice, **changes)
        steps.append((reason, choice))

    step("revoked or in quarantine", state=ACTIVE)
    since = now - timedelta(seconds=policy.active_within_s)
    step(f"not seen within {policy.active_within_s / DAY_S:g} days", seen_since=since)
    step(f"not of the classes {', '.join(policy.hardware_classes)}", hardware_classes=policy.hardware_classes)
    step(f"in none of the groups {', '.join(policy.groups)}", groups=policy.groups)
    denied = policy.denied
    step("on the deny-list", not_ids=tuple(sorted(denied.devices)), not_groups=tuple(sorted(denied.groups)))
    if policy.filter is not None:
        step(f"outside the filter {policy.filter.text}", filter=policy.filter)
    for rule in _ahead(model, policy, rule_id):
        step(
            f"taken by {rule.source}, whose priority {rule.priority} is higher",
            unclaimed_by=(*choice.unclaimed_by, _claim(rule)),
        )
    return steps


def _ahead(model: str, policy: RolloutPolicy, rule_id: int | None) -> list[RuleView]:
    """The rules that may claim a device before this one does."""
    rules = assignments.active_rules_for_ingest()
    return [rule for rule in rules if rule.model == model and rule.id != rule_id and rule.priority > policy.priority]


def _claim(rule: RuleView) -> Claim:
    reach = rule.reach
    ends = reach.class_ends
    treated = [("", 0, reach.treated_end), *((name, 0, end) for name, end in ends.items())]
    control = [(name, reach.control_start, BUCKETS) for name in ("", *ends)]
    arms = [("", arm.buckets.start, arm.buckets.end) for arm in rule.arms]
    return Claim(
        choice=DeviceChoice(
            hardware_classes=tuple(sorted(rule.hardware_classes)),
            groups=tuple(sorted(rule.groups)),
            filter=rule.filter,
            not_ids=tuple(sorted(rule.denied.devices)),
            not_groups=tuple(sorted(rule.denied.groups)),
        ),
        seed=rule.seed,
        spans=tuple(arms or (*treated, *control)),
        classes=() if arms else tuple(sorted(ends)),
        ids=() if arms else tuple(sorted(reach.listed)),
    )


def _contract(tally: Tally) -> Contract | None:
    try:
        return parse_contract(tally.contract) if tally.contract else None
    except WireError:
        return None


def _capabilities(told: Mapping[str, object]) -> Capabilities:
    try:
        return Capabilities.parse(Fields(told, "capabilities"))
    except WireError:
        return Capabilities()
