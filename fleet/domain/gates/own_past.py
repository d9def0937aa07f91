"""Treated devices against their own time under the earlier version, in phases that leave no control.

Each device is compared with itself, so that what makes devices differ plays no part. What changes with time does: a
season that hits everybody looks like the version. So where a control has spoken or will, being worse than before only
holds the phase until a person has looked; a version is not reverted for the season. Where nothing else is compared, it
fails, if both places of the differences say so: differences of rare events lean to one side when the phase is longer
than the past was, and leaving out the extremes of one end moves them.
"""

from fleet.domain.gate_policy import MeasuredGate, Shape
from fleet.domain.gates.contrasted import is_beyond, is_inside, point
from fleet.domain.gates.words import apart, estimate_evidence, margin, named, saying, undecided
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.contrasts import interval, one_sample
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.samples import Location
from fleet.domain.strata import ALL_CLASSES, MIN_CONTROL
from fleet.domain.verdicts import GateResult, Kind, PhaseFacts, Verdict


def judge(
    gate: MeasuredGate, policy: RolloutPolicy, facts: PhaseFacts, alpha: float, *, is_second: bool
) -> GateResult | None:
    """The result, or None where too few devices have a past. A gate with `max_ratio` needs two arms and has none.

    `is_second`: another phase has compared the gate with a control, or will.
    """
    past = facts.measures.of(gate.name, ALL_CLASSES).own_past
    if past.devices < MIN_CONTROL or gate.max_ratio is not None:
        return None
    trimmed, plain = (_interval(gate, facts, place, alpha) for place in (past.trimmed, past.plain))
    if isinstance(trimmed, Unjudgeable) or isinstance(plain, Unjudgeable):
        return None
    is_worse = is_beyond(gate, trimmed) and is_beyond(gate, plain)
    if is_worse:
        verdict = Verdict.INCONCLUSIVE if is_second else Verdict.FAIL
    elif is_inside(gate, trimmed) and is_inside(gate, point(plain)):
        verdict = Verdict.PASS
    else:
        verdict = undecided(facts)
    words = (
        f"{named(gate, policy)} is {apart(gate, trimmed, 'the same devices before')} "
        f"({margin(gate)}); {past.devices:,} devices"
    )
    if is_worse and is_second:
        words += "; its control did not say so, and a season would look the same: a person has to decide"
    evidence = {
        "metric": gate.metric,
        "shape": gate.shape.value,
        "higher_is_better": gate.higher_is_better,
        "margin": gate.margin or 0.0,
        "alpha": alpha,
        "devices": past.devices,
        **estimate_evidence(trimmed),
        "untrimmed": estimate_evidence(plain),
    }
    return GateResult(
        gate.name,
        Kind.OWN_PAST,
        ALL_CLASSES,
        verdict,
        saying(verdict, words),
        evidence,
        advisory=is_second and not is_worse,
    )


def _interval(gate: MeasuredGate, facts: PhaseFacts, place: Location, alpha: float) -> Estimate | Unjudgeable:
    found = one_sample(place, planned=facts.counts.treated)
    within = (-1.0, 1.0) if gate.shape is Shape.SHARE else None
    return found if isinstance(found, Unjudgeable) else interval(found, alpha=alpha, within=within)
