"""Whether a policy can work on a given fleet: findings before anything is started, and the smallest effect it can see.

Errors refuse the plan; warnings and notes are shown. `fit` leaves out phases of a preset that would reach nobody new.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

from device_client.wire.bucketing import BUCKETS, control_range, share_range
from fleet.domain.detectable import Detectable, detectable, unprovable
from fleet.domain.gate_policy import Metric
from fleet.domain.policy import Phase, RolloutPolicy
from fleet.domain.strata import MIN_CONTROL, MIN_TREATED, comparison
from fleet.domain.verdicts import ClassCount, PhaseCounts


class Level(StrEnum):
    """Whether a finding refuses the plan."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing to know about a plan before it starts."""

    level: Level
    code: str
    sentence: str


@dataclass(frozen=True)
class PlacedDevices:
    """Devices that the plan is for: their class, and a bucket under the rollout's seed that stands for all of theirs.

    No edge of the plan's ranges (`edges`) lies between that bucket and any of theirs.
    """

    hardware_class: str
    bucket: int
    devices: int = 1


@dataclass(frozen=True)
class Ranges:
    """A phase's share of the buckets: treated [0, treated_end), control [control_start, BUCKETS)."""

    treated_end: int
    control_start: int


@dataclass(frozen=True)
class Plan:
    """A policy on a fleet: its phases' counts, what was found, and what it can see."""

    policy: RolloutPolicy
    phases: tuple[PhaseCounts, ...]
    findings: tuple[Finding, ...]
    detectable: tuple[Detectable, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What refuses the plan."""
        return tuple(item for item in self.findings if item.level is Level.ERROR)


def ranges(policy: RolloutPolicy, phase: int) -> Ranges:
    """The buckets of a phase. The control keeps to its end of the line and gives way only to the treated."""
    treated = share_range(policy.phases[phase].share)
    return Ranges(treated.end, max(treated.end, control_range(policy.control_share).start))


def edges(policy: RolloutPolicy) -> tuple[int, ...]:
    """Where a range of any phase begins or ends, in rising order."""
    found = (ranges(policy, phase) for phase in range(len(policy.phases)))
    return tuple(sorted({edge for item in found for edge in (item.treated_end, item.control_start)}))


def count(policy: RolloutPolicy, phase: int, devices: Sequence[PlacedDevices]) -> PhaseCounts:
    """How many of these devices the phase treats and leaves as control, by hardware class."""
    found = ranges(policy, phase)
    classes: dict[str, list[int]] = {}
    for device in devices:
        tally = classes.setdefault(device.hardware_class, [0, 0, 0])
        if device.bucket < found.treated_end:
            tally[0] += device.devices
        if found.control_start <= device.bucket < BUCKETS:
            tally[1] += device.devices
        tally[2] += device.devices
    return PhaseCounts(tuple(ClassCount(name, *tally) for name, tally in sorted(classes.items())))


def fit(policy: RolloutPolicy, devices: Sequence[PlacedDevices]) -> tuple[RolloutPolicy, tuple[Finding, ...]]:
    """A preset's policy without the phases that would reach no device more than the one before."""
    if not policy.is_fitted or not devices:
        return policy, ()
    kept: list[Phase] = []
    dropped: list[str] = []
    reached = 0
    for index, phase in enumerate(policy.phases):
        treated = count(policy, index, devices).treated
        if treated > reached or index + 1 == len(policy.phases):
            kept.append(phase)
            reached = treated
        else:
            dropped.append(f"{phase.share:.0%}")
    if not dropped:
        return policy, ()
    sentence = f"left out the phases {', '.join(dropped)}: of {sum(item.devices for item in devices)} devices they would reach no further one"
    return replace(policy, phases=tuple(kept), preset=""), (Finding(Level.NOTE, "phases_fitted", sentence),)


def validate(policy: RolloutPolicy, devices: Sequence[PlacedDevices], *, has_baseline: bool) -> Plan:
    """Fit, count, check. A plan with errors must not be started."""
    policy, fitted = fit(policy, devices)
    phases = tuple(count(policy, index, devices) for index in range(len(policy.phases)))
    findings = [
        *fitted,
        *contradictions(policy, has_baseline=has_baseline),
        *_reach(policy, phases),
        *_comparisons(policy, phases, has_baseline),
    ]
    return Plan(policy, phases, tuple(findings), detectable(policy, phases, has_baseline=has_baseline))


def contradictions(policy: RolloutPolicy, *, has_baseline: bool) -> list[Finding]:
    """What cannot be, whatever the fleet."""
    found: list[Finding] = []
    shares = [phase.share for phase in policy.phases]
    if any(later <= earlier for earlier, later in pairwise(shares)):
        shown = ", ".join(f"{share:g}" for share in shares)
        found.append(Finding(Level.ERROR, "shares_not_rising", f"expected rising shares, got {shown}"))
    if shares[-1] < 1.0:
        sentence = (
            f"the last phase treats {shares[-1]:.0%}; the rest gets the version when the rollout completes, unwatched"
        )
        found.append(Finding(Level.WARNING, "last_phase_partial", sentence))
    for index, phase in enumerate(policy.phases):
        if phase.deadline_s <= phase.min_duration_s:
            sentence = f"phase {index + 1}: expected a deadline after its minimum of {phase.min_duration_s:g} s, got {phase.deadline_s:g} s"
            found.append(Finding(Level.ERROR, "deadline_before_minimum", sentence))
        if phase.deadline_s <= policy.jitter_s:
            sentence = f"phase {index + 1}: devices spread over {policy.jitter_s:g} s cannot all start before the deadline at {phase.deadline_s:g} s"
            found.append(Finding(Level.ERROR, "deadline_before_jitter", sentence))
        if phase.deadline_s <= policy.gates.silence_grace_s:
            sentence = f"phase {index + 1}: silence of {policy.gates.silence_grace_s:g} s cannot be seen before the deadline at {phase.deadline_s:g} s"
            found.append(Finding(Level.WARNING, "silence_unseen", sentence))
    if has_baseline and policy.gates.comparative and policy.control_share + shares[0] > 1:
        sentence = f"a control of {policy.control_share:.0%} overlaps the first phase's {shares[0]:.0%}; expected at most 100% together"
        found.append(Finding(Level.ERROR, "control_overlaps", sentence))
    return found


def _reach(policy: RolloutPolicy, phases: Sequence[PhaseCounts]) -> list[Finding]:
    """What the fleet's size does to the phases."""
    population = phases[0].population
    if population == 0:
        return [
            Finding(
                Level.WARNING,
                "population_empty",
                "no active device fits the version today; later ones will be served",
            )
        ]
    found: list[Finding] = []
    for index, counts in enumerate(phases):
        if counts.treated == 0:
            sentence = f"phase {index + 1} ({policy.phases[index].share:.0%}) reaches none of {population} devices; raise its share"
            found.append(Finding(Level.ERROR, "phase_reaches_nobody", sentence))
        elif policy.gates.install_max_share * counts.treated < 1:
            sentence = f"phase {index + 1} treats {counts.treated} devices: a single failed install stops it"
            found.append(Finding(Level.NOTE, "one_failure_stops", sentence))
    return found


def _comparisons(policy: RolloutPolicy, phases: Sequence[PhaseCounts], has_baseline: bool) -> list[Finding]:  # noqa: FBT001
    """Whether every comparison that the policy asks for can ever be made, and what it can prove."""
    gates = policy.gates.comparative
    found: list[Finding] = []
    if not any(gate.metric == Metric.ACCURACY for gate in policy.gates.measured):
        sentence = "there is no accuracy gate: a version that loads, runs and is wrong would pass"
        found.append(Finding(Level.WARNING, "accuracy_unwatched", sentence))
    if not gates or phases[0].population == 0:
        return found
    if not has_baseline:
        names = ", ".join(gate.name for gate in gates)
        sentence = f"{names}: no earlier version to compare with; judged by limits only"
        return [*found, Finding(Level.NOTE, "first_install", sentence)]
    compared = [comparison(counts, has_baseline=True) for counts in phases]
    if not any(item.strata for item in compared):
        sentence = (
            f"no phase has {MIN_TREATED} treated and {MIN_CONTROL} control devices ({compared[0].reason}): "
            "give the gates absolute limits, or use the preset manual without margins"
        )
        return [*found, Finding(Level.ERROR, "gate_unreachable", sentence)]
    found += [
        Finding(Level.NOTE, "phase_not_compared", f"phase {index + 1} is not compared with a control: {item.reason}")
        for index, item in enumerate(compared)
        if not item.strata
    ]
    found += [Finding(Level.WARNING, "margin_unprovable", sentence) for sentence in unprovable(policy, phases)]
    return found
