"""Puts together what the conductor decides from: stored rows in, one frozen snapshot out. For this app only.

Costs a constant number of queries plus the rows of the phase's own totals; counts no populations.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from fleet.apps.assignments import selectors as assignments
from fleet.apps.devices import selectors as devices
from fleet.apps.registry import selectors as registry
from fleet.apps.registry.records import VersionState
from fleet.apps.rollouts import watch
from fleet.apps.rollouts.models import PhaseRun, Rollout
from fleet.apps.telemetry import selectors as telemetry
from fleet.apps.telemetry.pasts import PAST_METRICS, Earlier, Past, PastCache
from fleet.domain.budget import Allotment, Spent
from fleet.domain.conductor import Snapshot
from fleet.domain.facts import RuleState
from fleet.domain.gate_policy import Shape
from fleet.domain.measure import measure
from fleet.domain.measurements import DeviceGroup, Groups, Side, Totals
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import RolloutState
from fleet.domain.strata import comparison
from fleet.domain.verdicts import Carried, ClassCount, Kind, OfferCount, PhaseCounts, PhaseFacts, Verdict


def snapshot(
    row: Rollout, policy: RolloutPolicy, now: datetime, *, pasts: PastCache, jumped_at: datetime | None = None
) -> Snapshot:
    """The rollout as it stands. `pasts` saves reading them again; `jumped_at` is when the server's clock last jumped."""
    state = RolloutState(row.state)
    started_at = row.phase_started_at or row.created_at
    reverting = state is RolloutState.REVERTING
    runs = {} if reverting else {run.index: run for run in PhaseRun.objects.filter(rollout=row, index__lte=row.phase)}
    current = runs.get(row.phase)
    return Snapshot(
        state=state,
        policy=policy,
        facts=PhaseFacts(row.phase, PhaseCounts()) if reverting else _facts(row, policy, runs, pasts, now),
        phase_started_at=started_at,
        clock_from=row.clock_from_at or started_at,
        is_counted=current is not None and current.counted_at is not None,
        stop=_stop(row),
        frozen=assignments.stop_of(row.model_id),
        still_running=_still_running(row, policy) if reverting else 0,
        reverting_since=row.reverting_since_at,
        revert_step=row.revert_step,
        quiet_until=quiet_until(row, now),
        settles_at=None if jumped_at is None else jumped_at + timedelta(seconds=policy.gates.silence_grace_s),
    )


def quiet_until(row: Rollout, now: datetime) -> datetime | None:
    """Until when it must not go on by itself; None where it may."""
    return None if row.ignores_quiet_hours else registry.quiet_hours(row.model_id).until(now)


def phase_counts(row: PhaseRun) -> PhaseCounts:
    """The counts that were taken at the phase's start."""
    return PhaseCounts(
        tuple(
            ClassCount(name, count["treated"], count["control"], count["population"])
            for name, count in sorted(row.classes.items())
        )
    )


def offers_so_far(row: Rollout, policy: RolloutPolicy, now: datetime) -> tuple[OfferCount, ...]:
    """What became of the offers of all phases so far, by hardware class. Reads every offer of the rollout."""
    if row.rule_id is None:
        return ()
    grace_s = policy.gates.silence_grace_s
    found = assignments.offers_up_to(rule_id=row.rule_id, phase=row.phase, now=now, grace_s=grace_s)
    return tuple(
        OfferCount(
            hardware_class=item.hardware_class,
            offered=item.offered,
            committed=item.committed,
            failed=item.failed,
            rolled_back=item.rolled_back,
            silent=item.silent,
        )
        for item in found
    )


def baseline_version_id(model: str, hardware_classes: Collection[str] = ()) -> int | None:
    """The version of the newest completed rule of a model that may be for these classes: what an untreated device runs.

    No classes mean all of them, here and in rules.
    """
    asked = set(hardware_classes)
    completed = [
        rule
        for rule in assignments.rules(model)
        if rule.state is RuleState.COMPLETED
        and not (asked and rule.hardware_classes and asked.isdisjoint(rule.hardware_classes))
    ]
    newest = max(completed, key=lambda rule: (rule.ended_at or rule.created_at, rule.id), default=None)
    return None if newest is None else newest.version_id


def _facts(
    row: Rollout, policy: RolloutPolicy, runs: Mapping[int, PhaseRun], pasts: PastCache, now: datetime
) -> PhaseFacts:
    current = runs.get(row.phase)
    earlier = [run for run in runs.values() if run.index < row.phase]
    counts = PhaseCounts() if current is None else phase_counts(current)
    return PhaseFacts(
        phase=row.phase,
        counts=counts,
        offers=offers_so_far(row, policy, now),
        measures=measure(
            policy.gates,
            counts,
            comparison(counts, has_baseline=row.against_id is not None),
            _groups(row, policy, pasts),
        ),
        watched=watch.counts(row, now=now, grace_s=policy.gates.silence_grace_s),
        carried=_carried(policy, earlier),
        spent=_spent(earlier),
        has_baseline=row.against_id is not None,
    )


def _carried(policy: RolloutPolicy, runs: list[PhaseRun]) -> dict[str, Carried]:
    """For each comparative gate, what it said at the end of the last phase that compared it."""
    carried: dict[str, Carried] = {}
    for run in sorted(runs, key=lambda run: run.index):
        gates = run.judgement.get("gates", [])
        for gate in policy.gates.comparative:
            found = [
                item
                for item in gates
                if item["name"] == gate.name and item["kind"] == Kind.CONTROL.value and not item.get("advisory")
            ]
            if found:
                verdicts = [Verdict(item["verdict"]) for item in found]
                worst = next((verdict for verdict in verdicts if verdict is not Verdict.PASS), Verdict.PASS)
                carried[gate.name] = Carried(run.index, worst, "; ".join(item["sentence"] for item in found))
    return carried


def _groups(row: Rollout, policy: RolloutPolicy, pasts: PastCache) -> Groups:
    """What the devices of both sides measured in this phase, and their own time before where something is compared."""
    if row.rule_id is None:
        return {}
    metrics = {metric: shape == Shape.MEAN for metric, shape in policy.gates.metrics.items()}
    found = telemetry.phase_totals(rule_id=row.rule_id, phase=row.phase, metrics=metrics)
    known: Mapping[str, Past] = {}
    if row.against is not None and policy.gates.comparative:
        earlier = Earlier(row.rule_id, row.phase, row.model_id, row.against.label, policy.device.slow_ms)
        known = pasts.of(earlier, [device_id for table in found.values() for device_id in table.ids])
    return {
        (name, Side(side)): DeviceGroup(
            table.ids, {metric: Totals(*columns) for metric, columns in table.totals.items()}, _before(table.ids, known)
        )
        for (name, side), table in found.items()
    }


def _before(ids: Sequence[str], known: Mapping[str, Past]) -> dict[str, Totals]:
    """The pasts of these devices as columns."""
    if not known:
        return {}
    columns = iter(zip(*(known[device_id] for device_id in ids), strict=True))
    return {metric: Totals(next(columns), next(columns)) for metric in PAST_METRICS}


def _spent(earlier: list[PhaseRun]) -> Spent:
    """The error that earlier phases have used, as their judgements say."""
    spent = Spent()
    for run in earlier:
        used = run.judgement.get("budget")
        if isinstance(used, dict):
            spent = spent.plus(Allotment(**used).spent)
    return spent


def _stop(row: Rollout) -> str:
    """Why the rollout must stop whatever its gates say; empty if nothing demands it."""
    version = registry.version_by_id(row.version_id)
    return f"version {version.label} was revoked" if version.state is VersionState.REVOKED else ""


def _still_running(row: Rollout, policy: RolloutPolicy) -> int:
    """How many active devices attest the version that is being reverted; none are left where it is the baseline too."""
    if baseline_version_id(row.model_id, policy.hardware_classes) == row.version_id:
        return 0
    label = registry.version_by_id(row.version_id).label
    return devices.attesting(row.model_id, label)
