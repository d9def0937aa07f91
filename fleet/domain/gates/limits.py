"""Limits on what the treated devices measured, without a control.

FAIL when the whole interval is beyond the limit, PASS when the measured value is within it: the devices of the phase are
all measured, so that no inference to others is made. A class that is beyond it for sure fails by itself.
"""

import math

from fleet.domain.gate_policy import MeasuredGate, Shape
from fleet.domain.gates.offers import total_of
from fleet.domain.gates.words import amount, arm_evidence, estimate_evidence, named, on, saying, undecided
from fleet.domain.measurements import Arm
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.contrasts import interval, one_sample
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.strata import ALL_CLASSES, MIN_TREATED, Part
from fleet.domain.verdicts import GateResult, Kind, PhaseFacts, Verdict


def tests(policy: RolloutPolicy, parts: tuple[Part, ...]) -> int:
    """How many intervals are read in a phase."""
    return sum(gate.limit is not None for gate in policy.gates.measured) * (1 + len(parts))


def judge(policy: RolloutPolicy, facts: PhaseFacts, parts: tuple[Part, ...], alpha: float) -> list[GateResult]:
    """Every gate with a limit: over all classes, then the parts that fail by themselves."""
    results: list[GateResult] = []
    for gate in policy.gates.measured:
        if gate.limit is None:
            continue
        results.append(_judged(gate, gate.limit, policy, facts, ALL_CLASSES, facts.counts.treated, alpha))
        alone = [_judged(gate, gate.limit, policy, facts, part.name, part.treated, alpha) for part in parts]
        results += [found for found in alone if found.verdict is Verdict.FAIL]
    return results


def _judged(  # noqa: PLR0917 - one call above
    gate: MeasuredGate,
    limit: float,
    policy: RolloutPolicy,
    facts: PhaseFacts,
    stratum: str,
    planned: int,
    alpha: float,
) -> GateResult:
    arm = facts.measures.of(gate.name, stratum).treated
    needed = max(min(MIN_TREATED, planned), math.ceil(total_of(facts.offers).committed / 2), 1)
    found = _interval(gate, arm, planned, alpha)
    at = f"limit {'at least' if gate.higher_is_better else 'at most'} {amount(gate, limit)}); {arm.devices:,} devices"
    subject = f"{named(gate, policy)}{on(stratum)} is"
    measured = arm.mean
    if isinstance(found, Estimate) and (found.upper < limit if gate.higher_is_better else found.lower > limit):
        verdict = Verdict.FAIL
        words = f"{subject} {amount(gate, found.lower)} to {amount(gate, found.upper)} ({at}"
    elif arm.devices < needed:
        verdict = undecided(facts)
        words = f"{named(gate, policy)} is known from {arm.devices:,} devices, needs {needed:,}"
    elif measured >= limit if gate.higher_is_better else measured <= limit:
        verdict, words = Verdict.PASS, f"{subject} {amount(gate, measured)} ({at}"
    else:
        verdict, words = undecided(facts), f"{subject} {amount(gate, measured)} ({at}, not beyond doubt"
    evidence = {
        "metric": gate.metric,
        "shape": gate.shape.value,
        "higher_is_better": gate.higher_is_better,
        "limit": limit,
        "alpha": alpha,
        "needed_devices": needed,
        "treated": arm_evidence(arm),
        **estimate_evidence(found),
    }
    return GateResult(gate.name, Kind.LIMIT, stratum, verdict, saying(verdict, words), evidence)


def _interval(gate: MeasuredGate, arm: Arm, planned: int, alpha: float) -> Estimate | Unjudgeable:
    """Without the extremes, so that liars alone cannot fail a phase."""
    found = one_sample(arm.raw.trimmed, planned=planned)
    within = (0.0, 1.0) if gate.shape is Shape.SHARE else None
    return found if isinstance(found, Unjudgeable) else interval(found, alpha=alpha, within=within)
