"""Comparisons of the treated with the control, per stratum and over all of them, signed so that lower is worse.

What is proven is `contrasted`'s; here are the results that gates give, with their sentences and their evidence. Over all
classes, differences are taken within strata first and averaged by population then, never pooled.
"""

from collections.abc import Mapping

from fleet.domain.gate_policy import MeasuredGate
from fleet.domain.gates.contrasted import Contrasts, combined, contrasts, intervals, is_within, proven
from fleet.domain.gates.words import (
    apart,
    arm_evidence,
    estimate_evidence,
    margin,
    named,
    on,
    saying,
    undecided,
)
from fleet.domain.measurements import Measured
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.strata import ALL_CLASSES, Stratum
from fleet.domain.verdicts import GateResult, Kind, PhaseFacts, Verdict

CONTROL = "the control's"


def judge(
    gate: MeasuredGate, policy: RolloutPolicy, facts: PhaseFacts, strata: tuple[Stratum, ...], alpha: float
) -> list[GateResult]:
    """Over all classes first, if there are several strata; then each stratum.

    The whole has half of the gate's error, the strata share the other half.
    """
    of_whole, of_stratum = (alpha / 2, alpha / 2 / len(strata)) if len(strata) > 1 else (0.0, alpha)
    measured = [facts.measures.of(gate.name, stratum.name) for stratum in strata]
    found = [contrasts(gate, item, stratum) for item, stratum in zip(measured, strata, strict=True)]
    results: list[GateResult] = []
    if len(strata) > 1:
        parts = [
            (item, float(stratum.population))
            for item, stratum in zip(found, strata, strict=True)
            if isinstance(item, Contrasts)
        ]
        overall: Contrasts | Unjudgeable = (
            combined(parts) if parts else Unjudgeable("no stratum has enough devices with data")
        )
        whole = facts.measures.of(gate.name, ALL_CLASSES)
        evidence: dict[str, object] = {
            "planned": {"treated": facts.counts.treated, "control": facts.counts.control},
            "classes": sorted(name for stratum in strata for name in stratum.classes),
            "strata": [stratum.name for stratum in strata],
        }
        results.append(_result(gate, policy, facts, (ALL_CLASSES, overall, whole), evidence, of_whole))
    for stratum, item, arms in zip(strata, found, measured, strict=True):
        evidence = {
            "planned": {"treated": stratum.treated, "control": stratum.control},
            "classes": sorted(stratum.classes),
            "theta": arms.theta,
        }
        advisory = len(strata) > 1 and stratum.is_small
        results.append(
            _result(gate, policy, facts, (stratum.name, item, arms), evidence, of_stratum, advisory=advisory)
        )
    return results


def _result(  # noqa: PLR0917 - two calls above
    gate: MeasuredGate,
    policy: RolloutPolicy,
    facts: PhaseFacts,
    judged: tuple[str, Contrasts | Unjudgeable, Measured],
    evidence: Mapping[str, object],
    alpha: float,
    *,
    advisory: bool = False,
) -> GateResult:
    name, found, measured = judged
    shown: Estimate | Unjudgeable
    if isinstance(found, Unjudgeable):
        shown, verdict = found, undecided(facts)
        words, more = f"{named(gate, policy)}{on(name)}: {found.reason}", dict[str, object]()
    else:
        bounds = intervals(gate, found, alpha)
        shown, verdict = bounds.trimmed, proven(gate, bounds) or undecided(facts)
        devices = f"{measured.treated.devices:,} and {measured.control.devices:,} devices"
        words = f"{named(gate, policy)}{on(name)} is {apart(gate, shown, CONTROL)} ({margin(gate)}); {devices}"
        if verdict not in (Verdict.FAIL, Verdict.PASS) and is_within(gate, bounds.trimmed, bounds.trimmed_times):
            words += "; the devices at the extremes are not within it"
        more = {
            "untrimmed": estimate_evidence(bounds.plain),
            "beyond_ratio": None if bounds.trimmed_times is None else estimate_evidence(bounds.trimmed_times),
        }
    return GateResult(
        gate.name,
        Kind.CONTROL,
        name,
        verdict,
        saying(verdict, words),
        {
            "metric": gate.metric,
            "shape": gate.shape.value,
            "higher_is_better": gate.higher_is_better,
            "margin": gate.margin or 0.0,
            "max_ratio": gate.max_ratio,
            "alpha": alpha,
            **evidence,
            "treated": arm_evidence(measured.treated),
            "control": arm_evidence(measured.control),
            **estimate_evidence(shown),
            **more,
        },
        advisory=advisory,
    )
