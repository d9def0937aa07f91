"""Treated against control as numbers: what gates of rollouts and guardrails of experiments are judged by.

FAIL: the whole interval lies beyond the margin. PASS: it lies within, and so does the mean with the outliers that the
interval leaves out: lying devices can delay a phase but not fail it, and a version that breaks a few devices completely
does not pass. That the mean is enough there, without an interval of its own, is because one mad device would widen it.
With `max_ratio`, a phase fails only beyond the margin and beyond that many times the control's value, and passes within
either.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleet.domain.gate_policy import MeasuredGate, Shape
from fleet.domain.gates.words import counted
from fleet.domain.measurements import Measured
from fleet.domain.stats import contrasts as stats
from fleet.domain.stats.contrasts import Contrast, contrast, interval
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.strata import MIN_CONTROL, MIN_TREATED, Stratum
from fleet.domain.verdicts import Verdict


@dataclass(frozen=True)
class Contrasts:
    """Treated against control: without the extremes and with them; `times` is against `max_ratio` times the control."""

    trimmed: Contrast
    plain: Contrast
    trimmed_times: Contrast | None
    plain_times: Contrast | None


@dataclass(frozen=True)
class Intervals:
    """The same, with bounds."""

    trimmed: Estimate
    plain: Estimate
    trimmed_times: Estimate | None
    plain_times: Estimate | None


def contrasts(gate: MeasuredGate, measured: Measured, stratum: Stratum) -> Contrasts | Unjudgeable:
    """Of one stratum, or why its devices do not suffice."""
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
        return Contrasts(trimmed, plain, None, None)
    times = [against(is_trimmed=is_trimmed, scale=gate.max_ratio) for is_trimmed in (True, False)]
    found = [item for item in times if isinstance(item, Contrast)]
    return Contrasts(trimmed, plain, found[0], found[1])


def combined(parts: Sequence[tuple[Contrasts, float]]) -> Contrasts:
    """Of several strata with these weights; at least one."""
    times = [(item.trimmed_times, item.plain_times, weight) for item, weight in parts]
    trimmed_times = [(item, weight) for item, _, weight in times if item is not None]
    plain_times = [(item, weight) for _, item, weight in times if item is not None]
    return Contrasts(
        stats.combined([(item.trimmed, weight) for item, weight in parts]),
        stats.combined([(item.plain, weight) for item, weight in parts]),
        stats.combined(trimmed_times) if trimmed_times else None,
        stats.combined(plain_times) if plain_times else None,
    )


def intervals(gate: MeasuredGate, found: Contrasts, alpha: float) -> Intervals:
    """With bounds that hold at every look, each with error `alpha`."""
    within = (-1.0, 1.0) if gate.shape is Shape.SHARE else None
    return Intervals(
        interval(found.trimmed, alpha=alpha, within=within),
        interval(found.plain, alpha=alpha, within=within),
        None if found.trimmed_times is None else interval(found.trimmed_times, alpha=alpha),
        None if found.plain_times is None else interval(found.plain_times, alpha=alpha),
    )


def proven(gate: MeasuredGate, found: Intervals) -> Verdict | None:
    """FAIL or PASS where it is proven."""
    if is_beyond(gate, found.trimmed) and (found.trimmed_times is None or _is_worse(gate, found.trimmed_times)):
        return Verdict.FAIL
    held = is_within(gate, found.trimmed, found.trimmed_times)
    times = None if found.plain_times is None else point(found.plain_times)
    return Verdict.PASS if held and is_within(gate, point(found.plain), times) else None


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


def is_within(gate: MeasuredGate, found: Estimate, times: Estimate | None) -> bool:
    """Whether it is no worse than the margin allows, or than `max_ratio` times the control."""
    by_ratio = times is not None and (times.lower > 0 if gate.higher_is_better else times.upper < 0)
    return is_inside(gate, found) or by_ratio
