"""The rules of a model with their versions, as answers need them: read once and kept while the plan's revision stands.

Every change of a rule raises the revision in its own transaction, and the revision is read for every answer, so that no
answer is older than a halt. What changes without it (a version that its pipeline revokes) is read again after KEPT_S.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from fleet.apps.assignments.models import PlanRevision
from fleet.apps.assignments.records import RuleRecord
from fleet.apps.assignments.selectors import assignable_rules, device_policy, recalled_rules, rule_record, stop_of
from fleet.apps.registry import selectors as registry
from fleet.apps.registry.records import VersionRecord, VersionState
from fleet.domain.assign import Ruleset
from fleet.domain.errors import NotFoundError
from fleet.domain.facts import Build, Rule, RuleArm
from fleet.domain.filters.filter import Filter

KEPT_S: Final = 5.0
MAX_MODELS: Final = 1_000


@dataclass(frozen=True)
class RulesOfModel:
    """One model's rules that can give a device a version. `manifests` are the signed bytes of each digest."""

    plan_key: str
    revision: int
    read_at: datetime
    rules: Ruleset
    manifests: Mapping[str, bytes]
    records: Mapping[int, RuleRecord]

    def patch_wait_s(self, rule: Rule) -> float:
        """For how long devices wait for a patch in a phase of this rule."""
        return self.records[rule.id].delta_wait_s

    def patch_deadline(self, rule: Rule) -> datetime | None:
        """Until when devices wait for a patch in this rule's present phase."""
        began_at = self.records[rule.id].phase_started_at
        return None if began_at is None else began_at + timedelta(seconds=self.patch_wait_s(rule))


class PlanCache:
    """Plans by model. Each process that answers checks has its own."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, RulesOfModel] = OrderedDict()

    def of(self, models: Collection[str], now: datetime) -> Mapping[str, RulesOfModel]:
        """The present plans of these models; those that the registry does not know are absent."""
        revisions = dict(PlanRevision.objects.filter(pk__in=models).values_list("pk", "revision"))
        found = {}
        for model in models:
            plan = self._kept.get(model)
            if (
                plan is None
                or plan.revision != revisions.get(model, 0)
                or now >= plan.read_at + timedelta(seconds=KEPT_S)
            ):
                plan = _read(model, revisions.get(model, 0), now)
                self._keep(model, plan)
            if plan is not None:
                found[model] = plan
        return found

    def _keep(self, model: str, plan: RulesOfModel | None) -> None:
        self._kept.pop(model, None)
        if plan is not None:
            self._kept[model] = plan
        if len(self._kept) > MAX_MODELS:
            self._kept.popitem(last=False)


def _read(model: str, revision: int, now: datetime) -> RulesOfModel | None:
    try:
        plan_key = registry.model(model).plan_key
    except NotFoundError:
        return None
    records = [rule_record(row) for row in assignable_rules(model)]
    back = [rule_record(row) for row in recalled_rules(model)]
    versions = registry.versions_by_id({number for record in (*records, *back) for number in _versions(record)})
    return RulesOfModel(
        plan_key=plan_key,
        revision=revision,
        read_at=now,
        rules=Ruleset.of(
            [_rule(record, versions) for record in records],
            model,
            recalled=_recalled(back, versions),
            stop=stop_of(model),
        ),
        manifests={
            variant.digest: variant.manifest_bytes for version in versions.values() for variant in version.variants
        },
        records={record.id: record for record in records},
    )


def _versions(record: RuleRecord) -> set[int]:
    return {record.version_id, *(arm.version_id for arm in record.arms)}


def _recalled(withdrawn: Sequence[RuleRecord], versions: Mapping[int, VersionRecord]) -> frozenset[str]:
    """The digests of what was withdrawn, by a rule or by the pipeline that had published it."""
    back = {number for record in withdrawn for number in _versions(record)}
    return frozenset(
        variant.digest
        for number, version in versions.items()
        if number in back or version.state is not VersionState.PUBLISHED
        for variant in version.variants
    )


def _builds(version: VersionRecord) -> tuple[Build, ...]:
    """A version that its pipeline has revoked is no build for anybody."""
    published = version.state is VersionState.PUBLISHED
    return tuple(Build(variant.digest, variant.manifest) for variant in version.variants) if published else ()


def _rule(record: RuleRecord, versions: Mapping[int, VersionRecord]) -> Rule:
    """A rule as the domain sees it."""
    version = versions[record.version_id]
    return Rule(
        id=record.id,
        source=record.source,
        model=record.model,
        version=version.label,
        version_id=version.id,
        builds=_builds(version),
        state=record.state,
        seed=record.seed,
        created_at=record.created_at,
        phase=record.phase,
        treated_end=record.treated_end,
        control_start=record.control_start,
        hardware_classes=frozenset(record.hardware_classes),
        groups=frozenset(record.groups),
        filter=Filter.parse(record.filter),
        priority=record.priority,
        ended_at=record.ended_at,
        device_policy=device_policy(record.device_policy),
        parameters=record.parameters,
        allow_delta=record.allow_delta,
        jitter_s=record.jitter_s,
        class_ends=record.class_ends,
        listed=frozenset(record.listed),
        denied=record.denied,
        holdback=record.holdback,
        delivery=record.delivery,
        together=frozenset(record.together),
        shadow=record.shadow,
        arms=tuple(
            RuleArm(
                name=arm.name,
                version=versions[arm.version_id].label,
                version_id=arm.version_id,
                builds=_builds(versions[arm.version_id]),
                buckets=arm.buckets,
                is_dropped=arm.is_dropped,
            )
            for arm in record.arms
        ),
    )
