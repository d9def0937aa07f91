"""Whether a policy can work on a given fleet: findings before anything is started, and the smallest effect it can see.

Errors refuse the plan; warnings and notes are shown. What cannot be is found by `plan_checks`; whom the phases reach is
`ramp`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleet.domain.detectable import Detectable, detectable, unprovable
from fleet.domain.findings import Finding, Level
from fleet.domain.gate_policy import Metric
from fleet.domain.plan_checks import contradictions, too_slow, unreachable
from fleet.domain.policy import RolloutPolicy
from fleet.domain.ramp import PlacedDevices, count, edges, fit, ranges, reaches
from fleet.domain.reach import Reach
from fleet.domain.strata import MIN_CONTROL, MIN_TREATED, comparison
from fleet.domain.verdicts import PhaseCounts

__all__ = [
    "Detectable",
    "Finding",
    "Level",
    "PlacedDevices",
    "Plan",
    "contradictions",
    "count",
    "edges",
    "fit",
    "ranges",
    "validate",
]


@dataclass(frozen=True)
class Plan:
    """A policy on a fleet: its phases' counts, what was found, and what it can see."""

    policy: RolloutPolicy
    phases: tuple[PhaseCounts, ...]
    findings: tuple[Finding, ...]
    detectable: tuple[Detectable, ...]
    reaches: tuple[Reach, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What refuses the plan."""
        return tuple(item for item in self.findings if item.level is Level.ERROR)


def validate(
    policy: RolloutPolicy, devices: Sequence[PlacedDevices], *, has_baseline: bool, control_share: float | None = None
) -> Plan:
    """Fit, count, check. A plan with errors must not be started.

    `control_share` is what `ramp.control_share` made of the policy's, if the devices were placed by that one's edges;
    what contradicts itself does so by the policy's own, whatever the fleet.
    """
    policy, fitted = fit(policy, devices)
    contradicted = contradictions(policy, has_baseline=has_baseline)
    if control_share is not None and control_share < policy.control_share:
        fitted = (*fitted, _capped(policy, control_share))
        policy = replace(policy, control_share=control_share)
    reached = reaches(policy, devices)
    phases = tuple(count(reach, devices) for reach in reached)
    findings = [
        *fitted,
        *contradicted,
        *unreachable(policy, reached, phases, devices),
        *too_slow(policy, phases),
        *_comparisons(policy, phases, has_baseline),
    ]
    return Plan(policy, phases, tuple(findings), detectable(policy, phases, has_baseline=has_baseline), reached)


def _capped(policy: RolloutPolicy, control_share: float) -> Finding:
    sentence = (
        f"the control is {control_share:.2%} of the devices and not {policy.control_share:.0%}: "
        f"{policy.control_devices:,} devices are enough to compare with (control_devices)"
    )
    return Finding(Level.NOTE, "control_capped", sentence)


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
