"""Comparisons of the treated with the control, per stratum and over all of them, signed so that lower is worse.

FAIL: the whole interval lies beyond the margin. PASS: it lies within, and so does the mean with the outliers that the
interval leaves out: lying devices can delay a phase but not fail it, and a version that breaks a few devices completely
does not pass. That the mean is enough there, without an interval of its own, is because one mad device would widen it.
With `max_ratio`, a phase fails only beyond the margin and beyond that many times the control's value, and passes within
either. Over all classes, differences are taken within strata first and averaged by population then, never pooled.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fleet.domain.gate_policy import MeasuredGate, Shape
from fleet.domain.gates.words import (
    apart,
    arm_evidence,
    counted,
    estimate_evidence,
    margin,
    named,
    on,
    saying,
    undecided,
)
from fleet.domain.measurements import Measured
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.contrasts import Contrast, combined, contrast, interval
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.strata import ALL_CLASSES, MIN_CONTROL, MIN_TREATED, Stratum
from fleet.domain.verdicts import GateResult, Kind, PhaseFacts, Verdict

CONTROL = "the control's"


@dataclass(frozen=True)
class _Contrasts:
    """Treated against control: without the extremes and with them; `times` is against `max_ratio` times the control."""

    trimmed: Contrast
    plain: Contrast
    trimmed_times: Contrast | None
    plain_times: Contrast | None


@dataclass(frozen=True)
class _Intervals:
    """The same, with bounds."""

    trimmed: Estimate
    plain: Estimate
    trimmed_times: Estimate | None
    plain_times: Estimate | None


def judge(
    gate: MeasuredGate, policy: RolloutPolicy, facts: PhaseFacts, strata: tuple[Stratum, ...], alpha: float
) -> list[GateResult]:
    """Over all classes first, if there are several strata; then each stratum.

    The whole has half of the gate's error, the strata share the other half.
    """
    of_whole, of_stratum = (alpha / 2, alpha / 2 / len(strata)) if len(strata) > 1 else (0.0, alpha)
    measured = [facts.measures.of(gate.name, stratum.name) for stratum in strata]
    found = [_contrasts(gate, item, stratum) for item, stratum in zip(measured, strata, strict=True)]
    results: list[GateResult] = []
    if len(strata) > 1:
        parts = [
            (item, float(stratum.population))
            for item, stratum in zip(found, strata, strict=True)
            if isinstance(item, _Contrasts)
        ]
        overall: _Contrasts | Unjudgeable = (
            _combined(parts) if parts else Unjudgeable("no stratum has enough devices with data")
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


def _contrasts(gate: MeasuredGate, measured: Measured, stratum: Stratum) -> _Contrasts | Unjudgeable:
    treated, control = measured.treated, measured.control
    if treated.devices < MIN_TREATED or control.devices < MIN_CONTROL:
        return Unjudgeable(
            f"{treated.devices:,} treated and {control.devices:,} control devices have at least {gate.min_per_device} "
            f"{counted(gate)}, needs {MIN_TREATED} and {MIN_CONTROL}"
        )

    def against(*, is_trimmed: bool, scale: float) -> Contrast | Unjudgeable:
        a, b = (arm.adjusted.trimmed if is_trimmed else arm.adjusted.plain for arm in (treated, control))
        return contrast(a, b, planned_treated=stratum.treated, planned_control=stratum.control, scale=scale)

    trimmed, plain = against(is_trimmed=True, scale=1.0), against(is_trimmed=False, scale=1.0)
    if isinstance(trimmed, Unjudgeable):
        return trimmed
    if isinstance(plain, Unjudgeable):
        return plain
    if gate.max_ratio is None:
        return _Contrasts(trimmed, plain, None, None)
    times = [against(is_trimmed=is_trimmed, scale=gate.max_ratio) for is_trimmed in (True, False)]
    found = [item for item in times if isinstance(item, Contrast)]
    return _Contrasts(trimmed, plain, found[0], found[1])


def _combined(parts: list[tuple[_Contrasts, float]]) -> _Contrasts:
    times = [(item.trimmed_times, item.plain_times, weight) for item, weight in parts]
    trimmed_times = [(item, weight) for item, _, weight in times if item is not None]
    plain_times = [(item, weight) for _, item, weight in times if item is not None]
    return _Contrasts(
        combined([(item.trimmed, weight) for item, weight in parts]),
        combined([(item.plain, weight) for item, weight in parts]),
        combined(trimmed_times) if trimmed_times else None,
        combined(plain_times) if plain_times else None,
    )


def _result(  # noqa: PLR0917 - two calls above
    gate: MeasuredGate,
    policy: RolloutPolicy,
    facts: PhaseFacts,
    judged: tuple[str, _Contrasts | Unjudgeable, Measured],
    evidence: Mapping[str, object],
    alpha: float,
    *,
    advisory: bool = False,
) -> GateResult:
    name, found, measured = judged
    shown: Estimate | Unjudgeable
    if isinstance(found, Unjudgeable):
        shown, verdict = found, undecided(facts)
        words, more = f"{gate.name}{on(name)}: {found.reason}", dict[str, object]()
    else:
        bounds = _intervals(gate, found, alpha)
        shown, verdict = bounds.trimmed, _verdict(gate, bounds) or undecided(facts)
        devices = f"{measured.treated.devices:,} and {measured.control.devices:,} devices"
        words = f"{named(gate, policy)}{on(name)} is {apart(gate, shown, CONTROL)} ({margin(gate)}); {devices}"
        if verdict not in (Verdict.FAIL, Verdict.PASS) and _is_within(gate, bounds.trimmed, bounds.trimmed_times):
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


def _intervals(gate: MeasuredGate, found: _Contrasts, alpha: float) -> _Intervals:
    within = (-1.0, 1.0) if gate.shape is Shape.SHARE else None
    return _Intervals(
        interval(found.trimmed, alpha=alpha, within=within),
        interval(found.plain, alpha=alpha, within=within),
        None if found.trimmed_times is None else interval(found.trimmed_times, alpha=alpha),
        None if found.plain_times is None else interval(found.plain_times, alpha=alpha),
    )


def _verdict(gate: MeasuredGate, found: _Intervals) -> Verdict | None:
    """FAIL or PASS where it is proven."""
    if is_beyond(gate, found.trimmed) and (found.trimmed_times is None or _is_worse(gate, found.trimmed_times)):
        return Verdict.FAIL
    is_within = _is_within(gate, found.trimmed, found.trimmed_times)
    times = None if found.plain_times is None else point(found.plain_times)
    return Verdict.PASS if is_within and _is_within(gate, point(found.plain), times) else None


def point(found: Estimate) -> Estimate:
    """The value alone."""
    return replace(found, lower=found.value, upper=found.value)


def is_beyond(gate: MeasuredGate, found: Estimate) -> bool:
    """Whether the whole interval is worse than the margin allows."""
    best = found.upper if gate.higher_is_better else -found.lower
    return best < -(gate.margin or 0.0)


def is_inside(gate: MeasuredGate, found: Estimate) -> bool:
    """Whether the whole interval is better than the margin asks."""
    worst = found.lower if gate.higher_is_better else -found.upper
    return worst > -(gate.margin or 0.0)


def _is_worse(gate: MeasuredGate, found: Estimate) -> bool:
    """Against a multiple of the control: zero is the limit."""
    return found.upper < 0 if gate.higher_is_better else found.lower > 0


def _is_within(gate: MeasuredGate, found: Estimate, times: Estimate | None) -> bool:
    by_ratio = times is not None and (times.lower > 0 if gate.higher_is_better else times.upper < 0)
    return is_inside(gate, found) or by_ratio
