"""What an experiment shows so far: are the arms comparable, is an arm better, does a guardrail hold. Pure.

Order: sample-ratio mismatch first, because arms of other sizes than meant are not comparable whatever they measure. Then
every treatment against the control, per hardware class and post-stratified over classes, by the evidence that the gates of
rollouts are judged by (`measure`, `gates.contrasted`): one vote per device, without outliers, less what a device's own past
explains. All intervals and p-values hold at every look. Success is adjusted by Holm over arms, success metrics and classes;
guardrails are not, because a ship needs them all (Schultzberg et al. 2024). Declaring harm has an error budget of its own,
split over all that is judged.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleet.domain import experiment_shadow
from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_findings import Analysis, ArmSum, Comparison, Facts, Finding, Judged, Role, Shares
from fleet.domain.gate_policy import Gates, MeasuredGate, Shape
from fleet.domain.gates.contrasted import Contrasts, Intervals, combined, contrasts, intervals, proven
from fleet.domain.gates.words import apart, estimate_evidence, margin, named, on
from fleet.domain.measure import measure
from fleet.domain.measurements import Arm, DeviceRow, Measures, Side, Total, grouped
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats import anytime, holm
from fleet.domain.stats.contrasts import Contrast
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.mismatch import mismatch
from fleet.domain.stats.multinomial import Multinomial, concentration
from fleet.domain.stats.shares import lower_bound
from fleet.domain.strata import ALL_CLASSES, Stratum, comparison
from fleet.domain.strata import Comparison as StrataComparison
from fleet.domain.verdicts import ClassCount, PhaseCounts, Verdict

MISMATCH_ALPHA: Final = 0.001  # the usual level for a sample-ratio mismatch (Fabijan et al., KDD 2019)
HARM_ALPHA: Final = 0.01  # as a rollout's chance of a wrongful revert


@dataclass(frozen=True)
class _Case:
    """What every comparison of one arm in one role needs. `harm`: the error of declaring one of them harmful."""

    spec: ExperimentSpec
    arm: str
    role: Role
    strata: tuple[Stratum, ...]
    measures: Measures
    harm: float


def analyse(spec: ExperimentSpec, facts: Facts) -> Analysis:
    """What the experiment shows at this look. Arms that were dropped count in no share and no comparison any more."""
    weights = {arm.name: arm.weight for arm in spec.arms if arm.name not in facts.dropped}
    if spec.shadow is not None:
        weights.pop(spec.control)  # the champion is on every device, and no offer of anybody
    planned = sum(count for (arm, _), count in facts.planned.items() if arm in weights)
    offered = {name: sum(item.offered for item in facts.offers if item.arm == name) for name in weights}
    devices = _devices(facts)
    speaking = {name: len(devices.get(name, ())) for name in weights}
    judged, comparisons, notes = (_in_shadow if spec.shadow is not None else _in_arms)(spec, facts, devices)
    lost = sum(judged.get(name, 0) for name in facts.dropped)
    adjusted = _with_holm(comparisons, spec.policy, spec.alpha, lost)
    installs = {} if spec.shadow is not None else _all_installs(spec, facts)
    return Analysis(
        assigned=_shares("assigned", offered, weights, planned),
        reporting=_shares("reporting", speaking, weights, planned),
        comparisons=tuple(
            item
            for arm in spec.treatments
            if arm.name in weights
            for item in (
                *(one for one in adjusted if one.arm == arm.name),
                *([installs[arm.name]] if arm.name in installs else []),
            )
        ),
        notes=tuple(dict.fromkeys(notes)),
    )


# By arm, how many p-values it has or would have had; then what is judged, and notes.
_Found = tuple[dict[str, int], list[Judged], list[str]]


def _in_arms(spec: ExperimentSpec, facts: Facts, devices: Mapping[str, "Totals"]) -> _Found:
    """Treatments against the control's devices."""
    compared = {arm.name: _compared(spec, facts, arm.name) for arm in spec.treatments}
    harm = _harm(spec, compared)
    judged: list[Judged] = []
    for arm in spec.treatments:
        if arm.name in facts.dropped:
            continue
        counts, found = compared[arm.name]
        groups = grouped(
            [
                *_as_rows(devices.get(arm.name, {}), Side.TREATED),
                *_as_rows(devices.get(spec.control, {}), Side.CONTROL),
            ]
        )
        for role, metrics in ((Role.SUCCESS, spec.success), (Role.GUARDRAIL, spec.guardrails)):
            measures = measure(Gates(measured=metrics), counts, found, groups)
            case = _Case(spec, arm.name, role, found.strata, measures, harm)
            judged += [
                _compare(case, metric, name, strata)
                for metric in metrics
                for name, strata in _places(found.strata, found.reason)
            ]
    notes = [note for name, (_, found) in compared.items() if name not in facts.dropped for note in _notes(found)]
    asked = {name: len(spec.success) * len(_places(found.strata, "")) for name, (_, found) in compared.items()}
    return asked, judged, notes


def _harm(spec: ExperimentSpec, compared: Mapping[str, tuple[PhaseCounts, StrataComparison]]) -> float:
    """The errors are shared out over all that was asked at the start: an arm that goes gives nothing to the others."""
    asked = len(spec.success) + len(spec.guardrails) + 1
    return HARM_ALPHA / (asked * sum(max(1, len(found.strata)) for _, found in compared.values()))


def _in_shadow(spec: ExperimentSpec, facts: Facts, _devices: Mapping[str, "Totals"]) -> _Found:
    """Candidates against the champion of the same device."""
    every = {arm.name: experiment_shadow.questions(spec, facts, arm.name) for arm in spec.treatments}
    harm = HARM_ALPHA / max(1, sum(every.values()))
    judged = [
        item
        for arm in spec.treatments
        if arm.name not in facts.dropped
        for item in experiment_shadow.judge(spec, facts, arm.name, harm)
    ]
    return every, judged, []


def _all_installs(spec: ExperimentSpec, facts: Facts) -> dict[str, Comparison]:
    harm = _harm(spec, {arm.name: _compared(spec, facts, arm.name) for arm in spec.treatments})
    return {arm.name: _installs(spec, facts, arm.name, harm) for arm in spec.treatments}


Totals = dict[str, tuple[str, dict[str, Total], dict[str, Total]]]


def _devices(facts: Facts) -> dict[str, Totals]:
    """By arm and device: its class, its totals and those of its own past."""
    found: dict[str, Totals] = {}
    for row in facts.rows:
        _, totals, before = found.setdefault(row.arm, {}).setdefault(row.device_id, (row.hardware_class, {}, {}))
        totals[row.metric] = Total(row.numerator, row.denominator, row.squares)
        if row.before is not None:
            before[row.metric] = row.before
    return found


def _as_rows(devices: Totals, side: Side) -> list[DeviceRow]:
    return [DeviceRow(device_id, name, side, totals, before) for device_id, (name, totals, before) in devices.items()]


# ---------------------------------------------------------------- comparable?


def _shares(name: str, counts: Mapping[str, int], weights: Mapping[str, float], planned: int) -> Shares:
    names = list(weights)
    listed, meant = [counts[item] for item in names], [weights[item] for item in names]
    once = mismatch(listed, meant)
    began = Multinomial.begin(meant, concentration(planned))
    seen = ", ".join(f"{counts[item]} in {item}" for item in names if weights[item] > 0)
    if isinstance(began, Unjudgeable):
        return Shares(name, counts, weights, None, None, rejected=False, sentence=began.reason)
    observed = began.observe(listed)
    rejected = observed.rejects(MISMATCH_ALPHA)
    verdict = "do not fall on the arms as they should" if rejected else "fall on the arms as they should"
    return Shares(
        name=name,
        counts=counts,
        weights=weights,
        p=observed.p,
        p_once=None if isinstance(once, Unjudgeable) else once.p,
        rejected=rejected,
        sentence=f"devices {name} {verdict}: {seen} (p {observed.p:.2g} at any look)",
    )


# ---------------------------------------------------------------- better, or worse?


def _compared(spec: ExperimentSpec, facts: Facts, arm: str) -> tuple[PhaseCounts, StrataComparison]:
    """The classes that can be compared alone or together, fixed by the counts at the start, and what was merged."""
    classes = sorted({name for _, name in facts.planned})
    counted = [
        (name, facts.planned.get((arm, name), 0), facts.planned.get((spec.control, name), 0)) for name in classes
    ]
    counts = PhaseCounts(tuple(ClassCount(name, ours, theirs, ours + theirs) for name, ours, theirs in counted))
    return counts, comparison(counts, has_baseline=True)


def _notes(found: StrataComparison) -> tuple[str, ...]:
    return found.notes or ((found.reason,) if found.reason else ())


def _places(strata: Sequence[Stratum], reason: str) -> list[tuple[str, tuple[Stratum, ...] | str]]:
    """The strata that get a row of their own: all classes together, then each one if there are several; or why none."""
    if not strata:
        return [(ALL_CLASSES, reason)]
    alone = [(item.name, (item,)) for item in strata] if len(strata) > 1 else []
    return [(ALL_CLASSES, tuple(strata)), *alone]


def _compare(case: _Case, metric: MeasuredGate, stratum: str, strata: tuple[Stratum, ...] | str) -> Judged:
    measured = case.measures.of(metric.name, stratum)
    plain = Comparison(
        arm=case.arm,
        metric=metric.name,
        role=case.role,
        stratum=stratum,
        finding=Finding.WAIT,
        sentence="",
        margin=metric.margin if case.role is Role.GUARDRAIL else None,
        higher_is_better=metric.higher_is_better,
        treated=_arm_sum(measured.treated),
        control=_arm_sum(measured.control),
        theta=measured.theta,
        own_unit=metric.shape is not Shape.SHARE,
    )
    found = Unjudgeable(strata) if isinstance(strata, str) else _contrast(case, metric, strata)
    if isinstance(found, Unjudgeable):
        return Judged(
            replace(plain, sentence=f"WAIT: {_subject(plain, metric, case.spec.policy)}: {found.reason}"), metric
        )
    judge = _success if case.role is Role.SUCCESS else _guardrail
    return judge(case, metric, found, plain)


def _contrast(case: _Case, metric: MeasuredGate, strata: tuple[Stratum, ...]) -> Contrasts | Unjudgeable:
    """Treatment against control: within each stratum, then averaged by the strata's planned devices."""
    parts = [
        (contrasts(metric, case.measures.of(metric.name, item.name), item), float(item.treated + item.control))
        for item in strata
    ]
    judged = [(item, weight) for item, weight in parts if isinstance(item, Contrasts)]
    if not judged:
        return next(item for item, _ in parts if isinstance(item, Unjudgeable))
    found = combined(judged)
    if found.trimmed.variance <= 0:
        return Unjudgeable("expected devices that differ from each other, got the same value from all")
    return found


def _success(case: _Case, metric: MeasuredGate, found: Contrasts, plain: Comparison) -> Judged:
    """Its p-value is adjusted later. Worse for sure: no margin, with an error from the harm budget."""
    zero, alpha = replace(metric, margin=0.0, max_ratio=None), case.spec.alpha
    bounds = intervals(zero, found, alpha / 2)
    worse = proven(zero, intervals(zero, found, case.harm)) is Verdict.FAIL
    sign = 1 if metric.higher_is_better else -1
    t = sign * found.trimmed.value / math.sqrt(found.trimmed.variance)
    p_better, p_worse = (_p(found.trimmed, value, alpha) for value in (t, -t))
    measured = replace(
        _with_bounds(plain, bounds),
        finding=Finding.WORSE if worse else Finding.WAIT,
        # What only devices at the extremes are against is no win.
        p=min(1.0, 2 * p_better) if sign * found.plain.value > 0 else 1.0,
        is_deteriorated=min(1.0, 2 * p_worse) <= alpha,
    )
    return Judged(measured, metric, bounds.trimmed)


def _guardrail(case: _Case, metric: MeasuredGate, found: Contrasts, plain: Comparison) -> Judged:
    bounds = intervals(metric, found, case.spec.alpha)
    finding = Finding.WAIT
    if proven(metric, intervals(metric, found, case.harm)) is Verdict.FAIL:
        finding = Finding.WORSE
    elif proven(metric, bounds) is Verdict.PASS:
        finding = Finding.PASS
    measured = replace(_with_bounds(plain, bounds), finding=finding)
    judged = Judged(measured, metric, bounds.trimmed)
    return replace(
        judged, comparison=replace(measured, sentence=_sentence(measured, judged, bounds.trimmed, case.spec.policy))
    )


def _with_bounds(plain: Comparison, bounds: Intervals) -> Comparison:
    shown = estimate_evidence(bounds.trimmed)  # JSON knows no infinity
    lower, upper = (value if isinstance(value := shown[side], float) else None for side in ("lower", "upper"))
    return replace(plain, value=bounds.trimmed.value, lower=lower, upper=upper, untrimmed=bounds.plain.value)


def _p(found: Contrast, t: float, alpha: float) -> float:
    return anytime.p_value(
        t, alpha=alpha / 2, df=found.df, size=found.size, planned=found.planned, planned_df=found.planned_df
    )


def _arm_sum(arm: Arm) -> ArmSum:
    return ArmSum(arm.devices, arm.numerator, arm.denominator, arm.mean if arm.devices else None)


def _installs(spec: ExperimentSpec, facts: Facts, arm: str, alpha: float) -> Comparison:
    """Failed installs of a treatment against the limit, by intent to treat."""
    mine = [item for item in facts.offers if item.arm == arm]
    failures = sum(item.failed + item.rolled_back for item in mine)
    concluded = failures + sum(item.committed for item in mine)
    limit = spec.policy.gates.install_max_share
    finding = Finding.WAIT
    if concluded and lower_bound(failures, concluded, alpha) > limit:
        finding = Finding.WORSE
    elif concluded and failures <= limit * concluded:
        finding = Finding.PASS
    words = {Finding.WORSE: "FAIL", Finding.PASS: "PASS", Finding.WAIT: "WAIT"}[finding]
    sentence = f"{words}: {failures} of {concluded} installs failed in {arm} (limit {100 * limit:.3g}%)"
    return Comparison(arm, "install_failures", Role.INSTALLS, ALL_CLASSES, finding, sentence, margin=limit)


def _with_holm(judged: Sequence[Judged], policy: RolloutPolicy, alpha: float, lost: int) -> list[Comparison]:
    """Success: better only if it still is after all the questions that were asked, the `lost` ones of dropped arms too."""
    every = [item.comparison for item in judged]
    family = {(item.arm, item.metric, item.stratum): item.p for item in every if item.role is Role.SUCCESS}
    adjusted = holm.adjusted({**family, **{("", str(number), ""): 1.0 for number in range(lost)}})
    found: list[Comparison] = []
    for one, item in zip(judged, every, strict=True):
        if item.role is not Role.SUCCESS or item.p is None or one.bounds is None:
            found.append(item)
            continue
        p = adjusted[item.arm, item.metric, item.stratum]
        better = item.finding is Finding.WAIT and p is not None and p <= alpha
        changed = replace(item, p_adjusted=p, finding=Finding.BETTER if better else item.finding)
        found.append(replace(changed, sentence=_sentence(changed, one, one.bounds, policy)))
    return found


# ---------------------------------------------------------------- words


def _subject(item: Comparison, metric: MeasuredGate, policy: RolloutPolicy) -> str:
    name = named(metric, policy)
    return f"{name} {'in' if ' of ' in name else 'of'} {item.arm}{on(item.stratum)}"


def _sentence(item: Comparison, one: Judged, bounds: Estimate, policy: RolloutPolicy) -> str:
    """Like "BETTER: accuracy of candidate is 12.1 to 21.9 points higher than the control's (...); 4 and 8 devices"."""
    if item.role is Role.GUARDRAIL:
        aside = margin(one.metric)
    else:
        p = item.p if item.p_adjusted is None else item.p_adjusted
        aside = "p unknown" if p is None else f"p {p:.2g} at any look, adjusted"
    verdict = "FAIL" if item.finding is Finding.WORSE else item.finding.value.upper()
    devices = " and ".join(f"{side.devices}" for side in (item.treated, item.control) if side is not None) + " devices"
    return (
        f"{verdict}: {_subject(item, one.metric, policy)} is {apart(one.metric, bounds, one.than)} ({aside}); {devices}"
    )
