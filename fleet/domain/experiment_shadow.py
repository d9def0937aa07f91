"""What shadows show: a candidate beside the champion, on the same inputs of the same devices. Pure.

Every device is its own pair: of its labels, those that only the candidate got right less those that only the champion got
right (the discordant cells of McNemar's table, Psychometrika 12, 1947), over all that were labelled. One such difference is
one vote; what makes devices and inputs differ plays no part, so that far fewer devices are needed than with two arms. The mean
over devices has an interval that holds at every look (`stats.contrasts`), like everything else that is decided from. Answers
that agree, errors, NaN and slow inferences are the candidate's own, against a limit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_findings import ArmRow, ArmSum, Comparison, Facts, Finding, Judged, Role
from fleet.domain.gate_policy import MeasuredGate, Metric
from fleet.domain.gates.contrasted import is_beyond, is_inside, point
from fleet.domain.gates.words import apart, counted, margin, named, on, percent
from fleet.domain.stats import anytime
from fleet.domain.stats.contrasts import Contrast, interval, one_sample
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.samples import Sample
from fleet.domain.strata import ALL_CLASSES, MIN_CONTROL

CHAMPION: Final = "the champion's on the same inputs"
PREFIX: Final = "shadow."
SKIPPED: Final = f"{PREFIX}skipped"  # of the inferences that were chosen, those for which a device had nothing to spare


def stored(metric: str) -> str:
    """The name under which a shadow's totals of a built-in metric are kept."""
    return f"{PREFIX}{metric}"


@dataclass(frozen=True)
class _Asked:
    """One question: a metric of one arm in one place, for one purpose."""

    arm: str
    metric: MeasuredGate
    role: Role
    place: str
    planned: int


@dataclass(frozen=True)
class _Found:
    """The devices that have said enough, and their mean, with the extremes and without."""

    devices: int
    numerator: float
    denominator: float
    trimmed: Contrast
    plain: Contrast


def questions(spec: ExperimentSpec, facts: Facts, arm: str) -> int:
    """How many comparisons one arm has, at least one: what the error of declaring harm is shared out over."""
    return max(1, len(_places(facts, arm))) * (len(spec.success) + len(spec.guardrails))


def judge(spec: ExperimentSpec, facts: Facts, arm: str, harm: float) -> list[Judged]:
    """Every comparison of one candidate; `harm` is the error of declaring one of them harmful."""
    rows = [row for row in facts.rows if row.arm == arm]
    return [
        _judge(spec, _Asked(arm, metric, role, place, planned), rows, harm)
        for role, metrics in ((Role.SUCCESS, spec.success), (Role.GUARDRAIL, spec.guardrails))
        for metric in metrics
        for place, planned in _places(facts, arm).items()
    ]


def _places(facts: Facts, arm: str) -> Mapping[str, int]:
    """All classes together, then each that has enough devices if there are several; with their planned devices."""
    classes = {name: count for (own, name), count in sorted(facts.planned.items()) if own == arm and count}
    alone = {name: count for name, count in classes.items() if count >= MIN_CONTROL} if len(classes) > 1 else {}
    return {ALL_CLASSES: sum(classes.values()), **alone}


def _judge(spec: ExperimentSpec, asked: _Asked, rows: Sequence[ArmRow], harm: float) -> Judged:
    metric = asked.metric
    found = _found(asked, rows)
    plain = Comparison(
        arm=asked.arm,
        metric=metric.name,
        role=asked.role,
        stratum=asked.place,
        finding=Finding.WAIT,
        sentence="",
        margin=(metric.margin if metric.limit is None else metric.limit) if asked.role is Role.GUARDRAIL else None,
        higher_is_better=metric.higher_is_better,
    )
    if isinstance(found, Unjudgeable):
        why = f"{metric.name} of {asked.arm}{on(asked.place)}: {found.reason}{_starved(asked, rows)}"
        return Judged(replace(plain, sentence=f"WAIT: {why}"), metric)
    ratio = found.numerator / found.denominator if found.denominator else None
    plain = replace(plain, treated=ArmSum(found.devices, found.numerator, found.denominator, ratio))
    if metric.metric != Metric.ACCURACY:
        return _limit(spec, asked, found, plain, harm)
    if asked.role is Role.SUCCESS:
        return _success(spec, asked, found, plain, harm)
    return _guardrail(spec, asked, found, plain, harm)


def _found(asked: _Asked, rows: Sequence[ArmRow]) -> _Found | Unjudgeable:
    metric, paired = asked.metric, asked.metric.metric == Metric.ACCURACY
    own = [
        row
        for row in rows
        if row.metric == stored(metric.metric)
        and (asked.place in {ALL_CLASSES, row.hardware_class})
        and row.denominator >= metric.min_per_device
        and abs(row.numerator) <= row.denominator
    ]
    if len(own) < MIN_CONTROL:
        return Unjudgeable(
            f"{len(own):,} devices have at least {metric.min_per_device} {counted(metric)}, needs {MIN_CONTROL}"
        )
    # The least that a device's own value varies: agreeing devices must not make an interval of width zero.
    noise = math.fsum(_noise(row, paired=paired) for row in own) / len(own)
    sample = Sample.of([row.numerator / row.denominator for row in own], noise=noise)
    trimmed, plain = (one_sample(place, planned=asked.planned) for place in (sample.trimmed, sample.plain))
    if isinstance(trimmed, Unjudgeable):
        return trimmed
    if isinstance(plain, Unjudgeable):
        return plain
    return _Found(
        len(own),
        math.fsum(row.numerator for row in own),
        math.fsum(row.denominator for row in own),
        trimmed,
        plain,
    )


def _starved(asked: _Asked, rows: Sequence[ArmRow]) -> str:
    """That devices have been too busy for the candidate, where that is why little was measured."""
    skipped = [
        row
        for row in rows
        if row.metric == SKIPPED and asked.place in {ALL_CLASSES, row.hardware_class} and row.numerator
    ]
    if not skipped:
        return ""
    share = math.fsum(row.numerator for row in skipped) / math.fsum(row.denominator for row in skipped)
    devices = "1 device" if len(skipped) == 1 else f"{len(skipped):,} devices"
    return f"; {devices} had no time or memory for {percent(share)} of what was chosen"


def _noise(row: ArmRow, *, paired: bool) -> float:
    if paired:  # a difference of pairs varies by those that disagree, which `squares` counts
        return (row.squares + 1) / (row.denominator + 2) / row.denominator
    share = (row.numerator + 1) / (row.denominator + 2)
    return share * (1 - share) / row.denominator


def _success(spec: ExperimentSpec, asked: _Asked, found: _Found, plain: Comparison, harm: float) -> Judged:
    zero = replace(asked.metric, margin=0.0)
    bounds = _bounds(found.trimmed, spec.alpha / 2)
    t = found.trimmed.value / math.sqrt(found.trimmed.variance)
    p_better, p_worse = (_p(found.trimmed, value, spec.alpha) for value in (t, -t))
    measured = replace(
        _with(plain, bounds, found),
        finding=Finding.WORSE if is_beyond(zero, _bounds(found.trimmed, harm)) else Finding.WAIT,
        p=min(1.0, 2 * p_better) if found.plain.value > 0 else 1.0,
        is_deteriorated=min(1.0, 2 * p_worse) <= spec.alpha,
    )
    return Judged(measured, asked.metric, bounds, CHAMPION)


def _guardrail(spec: ExperimentSpec, asked: _Asked, found: _Found, plain: Comparison, harm: float) -> Judged:
    metric, bounds = asked.metric, _bounds(found.trimmed, spec.alpha)
    finding = Finding.WAIT
    if is_beyond(metric, _bounds(found.trimmed, harm)):
        finding = Finding.WORSE
    elif is_inside(metric, bounds) and is_inside(metric, point(_bounds(found.plain, spec.alpha))):
        finding = Finding.PASS
    words = f"accuracy of {asked.arm}{on(asked.place)} is {apart(metric, bounds, CHAMPION)} ({margin(metric)})"
    measured = replace(_with(plain, bounds, found), finding=finding)
    return Judged(replace(measured, sentence=f"{_said(finding)}: {words}; {found.devices:,} devices"), metric, bounds)


def _limit(spec: ExperimentSpec, asked: _Asked, found: _Found, plain: Comparison, harm: float) -> Judged:
    """The candidate's own share against a limit."""
    metric, limit = asked.metric, asked.metric.limit or 0.0
    bounds, sure = (_bounds(found.trimmed, alpha, low=0.0) for alpha in (spec.alpha, harm))
    higher, finding = metric.higher_is_better, Finding.WAIT
    if (sure.upper < limit) if higher else (sure.lower > limit):
        finding = Finding.WORSE
    elif (bounds.lower > limit) if higher else (bounds.upper < limit):
        finding = Finding.PASS
    name = "answers that agree with the champion's" if metric.metric == Metric.AGREEMENT else named(metric, spec.policy)
    words = (
        f"{name}, of {asked.arm}{on(asked.place)}: {percent(bounds.lower)} to {percent(bounds.upper)} "
        f"(limit {percent(limit)})"
    )
    measured = replace(_with(plain, bounds, found), finding=finding)
    return Judged(replace(measured, sentence=f"{_said(finding)}: {words}; {found.devices:,} devices"), metric, bounds)


def _bounds(found: Contrast, alpha: float, low: float = -1.0) -> Estimate:
    return interval(found, alpha=alpha, within=(low, 1.0))


def _with(plain: Comparison, bounds: Estimate, found: _Found) -> Comparison:
    return replace(plain, value=bounds.value, lower=bounds.lower, upper=bounds.upper, untrimmed=found.plain.value)


def _p(found: Contrast, t: float, alpha: float) -> float:
    return anytime.p_value(
        t, alpha=alpha / 2, df=found.df, size=found.size, planned=found.planned, planned_df=found.planned_df
    )


def _said(finding: Finding) -> str:
    return "FAIL" if finding is Finding.WORSE else finding.value.upper()
