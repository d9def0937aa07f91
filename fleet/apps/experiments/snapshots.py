"""Puts together what an experiment is judged from: stored rows in, one frozen snapshot out. For this app only.

Costs a constant number of queries plus the rows of the experiment's own totals. Which arm a device's totals belong to
follows from its bucket, as its assignment did, and never from what it says of itself.
"""

from collections import Counter
from datetime import datetime

from device_client.wire.bucketing import bucket
from fleet.apps.assignments import selectors as assignments
from fleet.apps.assignments.records import RuleRecord
from fleet.apps.experiments.models import Experiment
from fleet.apps.registry import selectors as registry
from fleet.apps.registry.records import VersionState
from fleet.apps.telemetry import selectors as telemetry
from fleet.apps.telemetry.pasts import Earlier, past_of, pasts
from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_decision import Snapshot
from fleet.domain.experiment_findings import ArmOffer, ArmRow, Facts
from fleet.domain.experiment_states import ExperimentState

PHASE = 0  # an experiment has one


def snapshot(row: Experiment, spec: ExperimentSpec, now: datetime) -> Snapshot:
    """The experiment as it stands. It must have started."""
    started_at = row.started_at or row.created_at
    rule = None if row.rule_id is None else assignments.rule(row.rule_id)
    return Snapshot(
        state=ExperimentState(row.state),
        spec=spec,
        facts=Facts(planned=_planned(row)) if rule is None else _facts(row, spec, rule, now),
        started_at=started_at,
        ends_at=row.ends_at or started_at,
        stop="" if rule is None else _stop(rule),
    )


def _planned(row: Experiment) -> dict[tuple[str, str], int]:
    return {(arm, name): count for arm, classes in row.planned.items() for name, count in classes.items()}


def _facts(row: Experiment, spec: ExperimentSpec, rule: RuleRecord, now: datetime) -> Facts:
    totals = list(telemetry.gate_totals(rule_id=rule.id, phase=PHASE))
    arms = {item.device_id: "" for item in totals}
    for device_id in arms:
        place = bucket(rule.seed, device_id)
        arms[device_id] = next((arm.name for arm in rule.arms if place in arm.buckets), "")
    earlier = Earlier(rule.id, PHASE, row.model_id, spec.control_arm.version, spec.policy.device.slow_ms)
    keeping = {device_id for device_id, arm in arms.items() if arm == spec.control}
    # A shadow's devices are compared with themselves, and need no past.
    known = {} if spec.shadow is not None else pasts(earlier, list(arms), keeping=keeping)
    rows = [
        ArmRow(
            arm=arms[item.device_id],
            device_id=item.device_id,
            hardware_class=item.hardware_class,
            metric=item.metric,
            numerator=item.numerator,
            denominator=item.denominator,
            squares=item.squares,
            before=past_of(known, item.device_id, item.metric),
        )
        for item in totals
    ]
    if spec.shadow is not None:
        return Facts(
            planned=_planned(row),
            offers=_shadow_offers(rule, rows, now),
            rows=tuple(rows),
            dropped=frozenset(row.dropped),
        )
    grace_s = spec.policy.gates.silence_grace_s
    offers = tuple(
        ArmOffer(
            arm=item.arm,
            hardware_class=item.counts.hardware_class,
            offered=item.counts.offered,
            committed=item.counts.committed,
            failed=item.counts.failed,
            rolled_back=item.counts.rolled_back,
        )
        for item in assignments.arm_offers(rule_id=rule.id, now=now, grace_s=grace_s)
    )
    return Facts(planned=_planned(row), offers=offers, rows=tuple(rows), dropped=frozenset(row.dropped))


def _shadow_offers(rule: RuleRecord, rows: list[ArmRow], now: datetime) -> tuple[ArmOffer, ...]:
    """A shadow is installed where it has said something: no device attests what it does not serve."""
    devices = {(item.device_id, item.arm, item.hardware_class) for item in rows}
    speaking = Counter((arm, name) for _, arm, name in devices)
    return tuple(
        ArmOffer(
            item.arm, item.counts.hardware_class, item.counts.offered, speaking[item.arm, item.counts.hardware_class]
        )
        for item in assignments.arm_offers(rule_id=rule.id, now=now, grace_s=0.0)
    )


def _stop(rule: RuleRecord) -> str:
    """Why the experiment must stop whatever it shows; empty if nothing demands it."""
    versions = registry.versions_by_id({arm.version_id for arm in rule.arms if not arm.is_dropped})
    revoked = sorted(item.label for item in versions.values() if item.state is VersionState.REVOKED)
    return f"version {', '.join(revoked)} was revoked" if revoked else ""
