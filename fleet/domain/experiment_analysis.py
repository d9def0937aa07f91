"""What an experiment shows so far: are the arms comparable, is an arm better, does a guardrail hold. Pure.

Order: sample-ratio mismatch first, because arms of other sizes than meant are not comparable whatever they measure. Then
every treatment against the control, per hardware class and post-stratified over classes. All intervals and p-values hold
at every look. Success is adjusted by Holm over arms, success metrics and classes; guardrails are not, because a ship
needs them all (Schultzberg et al. 2024). Declaring harm has an error budget of its own, split over all that is judged.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleet.domain.experiment import ExperimentSpec
from fleet.domain.experiment_findings import Analysis, ArmRow, ArmSum, Comparison, Facts, Finding, Role, Shares
from fleet.domain.gate_policy import MeasuredGate
from fleet.domain.stats import anytime, holm
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.mismatch import mismatch
from fleet.domain.stats.multinomial import Multinomial, concentration
from fleet.domain.stats.ratios import RatioSums, Unit, difference
from fleet.domain.stats.sequences import radius
from fleet.domain.stats.shares import lower_bound
from fleet.domain.strata import ALL_CLASSES, MIN_CONTROL, MIN_TREATED, Stratum, comparison
from fleet.domain.verdicts import ClassCount, PhaseCounts

MISMATCH_ALPHA: Final = 0.001  # the usual level for a sample-ratio mismatch (Fabijan et al., KDD 2019)
HARM_ALPHA: Final = 0.01  # as a rollout's chance of a wrongful revert
SHOWN_POINTS: Final = 100.0


@dataclass(frozen=True)
class _Estimated:
    """A difference over one or several classes, with what its p-value needs."""

    found: Estimate | Unjudgeable
    treated: ArmSum
    control: ArmSum
    df: float = 0.0
    size: float = 0.0
    planned: float = 1.0
    planned_df: float = 1.0


class _Data:
    """The devices' totals by arm and metric, and their sums by class, each added up once."""

    def __init__(self, rows: Sequence[ArmRow]) -> None:
        self._rows: dict[tuple[str, str], list[ArmRow]] = {}
        self._sums: dict[tuple[str, str, frozenset[str]], RatioSums] = {}
        for row in rows:
            self._rows.setdefault((row.arm, row.metric), []).append(row)

    def sums(self, arm: str, metric: MeasuredGate, classes: frozenset[str]) -> RatioSums:
        """One arm's devices of these classes, with enough data and with totals that can be; one vote each."""
        key = (arm, metric.name, classes)
        if key not in self._sums:
            self._sums[key] = RatioSums.of(
                [
                    Unit(row.device_id, row.numerator, row.denominator)
                    for row in self._rows.get((arm, metric.metric), ())
                    if row.hardware_class in classes
                    and row.denominator >= metric.min_per_device
                    and 0 <= row.numerator <= row.denominator
                ]
            )
        return self._sums[key]


@dataclass(frozen=True)
class _Case:
    """What every comparison of one analysis needs. `harm`: the error of declaring one of them harmful."""

    spec: ExperimentSpec
    data: _Data
    harm: float


def analyse(spec: ExperimentSpec, facts: Facts) -> Analysis:
    """What the experiment shows at this look."""
    weights = {arm.name: arm.weight for arm in spec.arms}
    planned = sum(facts.planned.values())
    offered = {name: sum(item.offered for item in facts.offers if item.arm == name) for name in weights}
    speaking = {name: len({row.device_id for row in facts.rows if row.arm == name}) for name in weights}
    strata = {arm.name: _strata(spec, facts, arm.name) for arm in spec.treatments}
    notes = [note for found in strata.values() for note in found[1]]
    asked = len(spec.success) + len(spec.guardrails) + 1
    cells = asked * sum(max(1, len(found[0])) for found in strata.values())
    case = _Case(spec, _Data(facts.rows), HARM_ALPHA / cells)
    comparisons: list[Comparison] = []
    for arm in spec.treatments:
        comparisons += [
            _compare(case, (arm.name, metric, role), stratum)
            for role, metrics in ((Role.SUCCESS, spec.success), (Role.GUARDRAIL, spec.guardrails))
            for metric in metrics
            for stratum in _judged(strata[arm.name][0])
        ]
        comparisons.append(_installs(spec, facts, arm.name, case.harm))
    return Analysis(
        assigned=_shares("assigned", offered, weights, planned),
        reporting=_shares("reporting", speaking, weights, planned),
        comparisons=tuple(_with_holm(comparisons, spec.alpha)),
        notes=tuple(dict.fromkeys(notes)),
    )


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


def _strata(spec: ExperimentSpec, facts: Facts, arm: str) -> tuple[tuple[Stratum, ...], tuple[str, ...]]:
    """The classes that can be compared alone or together, fixed by the counts at the start, and what was merged."""
    classes = sorted({name for _, name in facts.planned})
    counted = [
        (name, facts.planned.get((arm, name), 0), facts.planned.get((spec.control, name), 0)) for name in classes
    ]
    counts = PhaseCounts(tuple(ClassCount(name, ours, theirs, ours + theirs) for name, ours, theirs in counted))
    found = comparison(counts, has_baseline=True)
    return found.strata, found.notes or ((found.reason,) if found.reason else ())


def _judged(strata: Sequence[Stratum]) -> list[tuple[str, tuple[Stratum, ...]]]:
    """The strata that get a row of their own: all classes together, then each one if there are several."""
    together = [(ALL_CLASSES, tuple(strata))]
    return together if len(strata) < 2 else [*together, *((item.name, (item,)) for item in strata)]  # noqa: PLR2004


def _compare(case: _Case, asked: tuple[str, MeasuredGate, Role], where: tuple[str, tuple[Stratum, ...]]) -> Comparison:
    arm, metric, role = asked
    stratum, strata = where
    alpha = case.spec.alpha / 2 if role is Role.SUCCESS else case.spec.alpha
    estimated = _estimate(case, arm, metric, strata, alpha)
    found = estimated.found
    plain = Comparison(
        arm=arm,
        metric=metric.name,
        role=role,
        stratum=stratum,
        finding=Finding.WAIT,
        sentence="",
        margin=metric.margin if role is Role.GUARDRAIL else None,
        higher_is_better=metric.higher_is_better,
        treated=estimated.treated,
        control=estimated.control,
    )
    if isinstance(found, Unjudgeable):
        return replace(plain, sentence=f"WAIT: {_subject(plain)}: {found.reason}")
    sign = 1 if metric.higher_is_better else -1
    t = sign * found.value / found.standard_error
    p_better, p_worse = (_p(estimated, value, case.spec.alpha) for value in (t, -t))
    if role is Role.SUCCESS:
        finding = Finding.WORSE if p_worse <= case.harm else Finding.WAIT
    else:
        margin = metric.margin or 0.0
        worst = found.lower if sign > 0 else -found.upper
        beyond = _p(estimated, -(sign * found.value + margin) / found.standard_error, case.spec.alpha)
        finding = Finding.WORSE if beyond <= case.harm else Finding.PASS if worst > -margin else Finding.WAIT
    measured = replace(
        plain,
        finding=finding,
        value=found.value,
        lower=found.lower,
        upper=found.upper,
        p=min(1.0, 2 * p_better),
        is_deteriorated=role is Role.SUCCESS and min(1.0, 2 * p_worse) <= case.spec.alpha,
    )
    return replace(measured, sentence=_sentence(measured))


def _estimate(case: _Case, arm: str, metric: MeasuredGate, strata: Sequence[Stratum], alpha: float) -> _Estimated:
    """Treatment minus control: within each stratum, then averaged by the strata's planned devices."""
    sides = [
        (case.data.sums(arm, metric, item.classes), case.data.sums(case.spec.control, metric, item.classes))
        for item in strata
    ]
    treated, control = (_arm_sum([pair[side] for pair in sides]) for side in (0, 1))
    if not strata or treated.devices < MIN_TREATED or control.devices < MIN_CONTROL:
        reason = (
            f"{treated.devices} and {control.devices} devices have at least {metric.min_per_device} measurements, "
            f"needs {MIN_TREATED} and {MIN_CONTROL}"
        )
        return _Estimated(Unjudgeable(reason), treated, control)
    parts: list[tuple[float, Estimate]] = []
    for item, (ours, theirs) in zip(strata, sides, strict=True):
        found = difference(ours, theirs, alpha=alpha, planned_treated=item.treated, planned_control=item.control)
        if isinstance(found, Unjudgeable):
            return _Estimated(Unjudgeable(f"{item.name}: {found.reason}"), treated, control)
        parts.append((item.treated + item.control, found))
    whole = sum(weight for weight, _ in parts)
    value = math.fsum(weight / whole * found.value for weight, found in parts)
    error = math.sqrt(math.fsum((weight / whole * found.standard_error) ** 2 for weight, found in parts))
    planned = [(max(item.treated, 2), max(item.control, 2)) for item in strata]
    shape = _Estimated(
        Unjudgeable(""),
        treated,
        control,
        df=sum(ours.devices + theirs.devices - 2 for ours, theirs in sides),
        size=_harmonic(treated.devices, control.devices),
        planned=_harmonic(sum(ours for ours, _ in planned), sum(theirs for _, theirs in planned)),
        planned_df=sum(ours + theirs - 2 for ours, theirs in planned),
    )
    width = radius(alpha, df=shape.df, size=shape.size, planned=shape.planned, planned_df=shape.planned_df)
    reach = width * error
    return replace(shape, found=Estimate(value, max(-1.0, value - reach), min(1.0, value + reach), error, width))


def _p(estimated: _Estimated, t: float, alpha: float) -> float:
    return anytime.p_value(
        t,
        alpha=alpha / 2,
        df=estimated.df,
        size=estimated.size,
        planned=estimated.planned,
        planned_df=estimated.planned_df,
    )


def _arm_sum(parts: Sequence[RatioSums]) -> ArmSum:
    s, n = math.fsum(item.s for item in parts), math.fsum(item.n for item in parts)
    return ArmSum(sum(item.devices for item in parts), s, n, s / n if n > 0 else None)


def _harmonic(a: int, b: int) -> float:
    return a * b / (a + b)


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


def _with_holm(comparisons: Sequence[Comparison], alpha: float) -> list[Comparison]:
    """Success: better only if it still is after all the questions that were asked."""
    family = {(item.arm, item.metric, item.stratum): item.p for item in comparisons if item.role is Role.SUCCESS}
    adjusted = holm.adjusted(family)
    found: list[Comparison] = []
    for item in comparisons:
        if item.role is not Role.SUCCESS or item.p is None:
            found.append(item)
            continue
        p = adjusted[item.arm, item.metric, item.stratum]
        better = item.finding is Finding.WAIT and p is not None and p <= alpha
        changed = replace(item, p_adjusted=p, finding=Finding.BETTER if better else item.finding)
        found.append(replace(changed, sentence=_sentence(changed)))
    return found


# ---------------------------------------------------------------- words


def _subject(item: Comparison) -> str:
    where = "" if item.stratum == ALL_CLASSES else f" on {item.stratum}"
    return f"{item.metric} of {item.arm}{where}"


def _sentence(item: Comparison) -> str:
    """Like "BETTER: accuracy of candidate is 12.1 to 21.9 points higher than the control's (...); 4 and 8 devices"."""
    low, high = SHOWN_POINTS * (item.lower or 0.0), SHOWN_POINTS * (item.upper or 0.0)
    if high < 0:
        apart = f"{-high:.1f} to {-low:.1f} points lower than the control's"
    elif low > 0:
        apart = f"{low:.1f} to {high:.1f} points higher than the control's"
    else:
        apart = f"between {abs(low):.1f} points lower and {high:.1f} points higher than the control's"
    if item.role is Role.GUARDRAIL:
        aside = f"margin {SHOWN_POINTS * (item.margin or 0.0):g}"
    else:
        p = item.p if item.p_adjusted is None else item.p_adjusted
        aside = "p unknown" if p is None else f"p {p:.2g} at any look, adjusted"
    verdict = "FAIL" if item.finding is Finding.WORSE else item.finding.value.upper()
    devices = f"{item.treated.devices} and {item.control.devices} devices" if item.treated and item.control else ""
    return f"{verdict}: {_subject(item)} is {apart} ({aside}); {devices}"
