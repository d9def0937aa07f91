"""Judges the gates of a phase. Pure: the same facts give the same verdicts; nothing is counted or stored here.

Three kinds of gate, each with its own kind of certainty:
- counts of offers (failed installs, silence) by intent to treat: a census of the devices that the phase treats. FAIL as
  soon as the limit is exceeded whatever happens to the rest, or when a bound valid at every look says so;
- limits on what the treated devices measured: FAIL when the whole interval is beyond the limit, PASS when the measured
  share is within it (the devices of the phase are all measured, so no inference to others is made);
- comparisons with the control: FAIL and PASS only when the whole interval is on one side of the margin.
A gate without evidence waits, and at the deadline is inconclusive. Silence counts as failure at the deadline.
"""

import math
from collections.abc import Sequence
from typing import Final

from fleet.domain.gate_policy import MeasuredGate, Metric
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.ratios import RatioSums, Unit, difference, share_of
from fleet.domain.stats.shares import lower_bound
from fleet.domain.strata import (
    ALL_CLASSES,
    MIN_CONTROL,
    MIN_TREATED,
    Stratum,
    absolute_alpha,
    comparative_alpha,
    comparison,
    has_control,
)
from fleet.domain.verdicts import GateResult, Judgement, Kind, OfferCount, PhaseFacts, Row, Side, Verdict

MAX_LISTED_DEVICES: Final = 40  # per side, in the evidence
_SLACK: Final = 1e-9  # of a device: 0.1 * 30 is not exactly 3


def judge(policy: RolloutPolicy, facts: PhaseFacts) -> Judgement:
    """All gates of the phase. Which comparisons are made is fixed by the counts at its start."""
    results = [*_installs(policy, facts), _silence(policy, facts)]
    notes: list[str] = []
    alpha = absolute_alpha(policy, len(facts.counts.classes))
    results += [
        _limit(gate, gate.limit, policy, facts, alpha) for gate in policy.gates.measured if gate.limit is not None
    ]
    compared = comparison(facts.counts, has_baseline=facts.has_baseline)
    for gate in policy.gates.comparative:
        if compared.strata:
            level = comparative_alpha(policy, len(compared.strata))
            results += [_compared(gate, stratum, policy, facts, level) for stratum in compared.strata]
        else:
            carried = _carried(gate, policy, facts, compared.reason)
            if carried is not None:
                results.append(carried)
            else:
                notes.append(f"{gate.name} is not compared with a control in this phase: {compared.reason}")
    if policy.gates.comparative:
        notes += compared.notes
    return Judgement(tuple(results), tuple(notes))


def _undecided(facts: PhaseFacts) -> Verdict:
    return Verdict.INCONCLUSIVE if facts.at_deadline else Verdict.WAIT


# ---------------------------------------------------------------- offers


def _installs(policy: RolloutPolicy, facts: PhaseFacts) -> list[GateResult]:
    """Failed installs over all classes, then each class that alone proves to be over the limit."""
    alpha = absolute_alpha(policy, len(facts.counts.classes))
    total = _sum(facts.offers)
    results = [_install(policy, facts, total, alpha)]
    limit = policy.gates.install_max_share
    for item in facts.offers:
        concluded = item.committed + item.failures
        if len(facts.offers) > 1 and concluded and lower_bound(item.failures, concluded, alpha) > limit:
            sentence = f"FAIL: {item.failures} of {concluded} installs failed on {item.hardware_class} (limit {_percent(limit)})"
            evidence = {**_offer_evidence(item), "max_share": limit, "alpha": alpha}
            results.append(
                GateResult("install_failures", Kind.OFFERS, item.hardware_class, Verdict.FAIL, sentence, evidence)
            )
    return results


def _install(policy: RolloutPolicy, facts: PhaseFacts, total: OfferCount, alpha: float) -> GateResult:
    gates = policy.gates
    limit = gates.install_max_share
    planned = max(facts.counts.treated, total.offered)
    concluded = total.committed + total.failures
    needed = max(1, math.ceil(gates.min_installed_share * planned - _SLACK))
    bound = lower_bound(total.failures, concluded, alpha)
    over_for_sure = total.failures > limit * planned + _SLACK or bound > limit
    over_at_deadline = facts.at_deadline and total.failures > limit * concluded + _SLACK
    failed = f"{total.failures} of {concluded} installs failed (limit {_percent(limit)} of {planned} devices)"
    if total.failures and (over_for_sure or over_at_deadline):
        verdict, sentence = Verdict.FAIL, f"FAIL: {failed}"
    elif total.committed >= needed:
        verdict, sentence = Verdict.PASS, f"PASS: {total.committed} of {planned} devices installed it, {failed}"
    else:
        verdict = _undecided(facts)
        sentence = (
            f"{verdict.value.upper()}: {total.committed} of {planned} devices installed it, needs {needed}; {failed}"
        )
    evidence = {
        **_offer_evidence(total),
        "planned": planned,
        "needed": needed,
        "max_share": limit,
        "failed_share_at_least": round(bound, 6),
        "alpha": alpha,
        "classes": [_offer_evidence(item) for item in facts.offers],
    }
    return GateResult("install_failures", Kind.OFFERS, ALL_CLASSES, verdict, sentence, evidence)


def _silence(policy: RolloutPolicy, facts: PhaseFacts) -> GateResult:
    """Devices that were offered the version and have not been heard of since."""
    total = _sum(facts.offers)
    limit, grace_s = policy.gates.silence_max_share, policy.gates.silence_grace_s
    counted = f"{total.silent} of {total.offered} offered devices were silent for {grace_s:g} s or more"
    if total.offered == 0:
        verdict = _undecided(facts)
        sentence = f"{verdict.value.upper()}: no device has asked for the version yet"
    elif total.silent <= limit * total.offered + _SLACK:
        verdict, sentence = Verdict.PASS, f"PASS: {counted} (limit {_percent(limit)})"
    else:
        verdict = Verdict.FAIL if facts.at_deadline else Verdict.WAIT
        sentence = f"{verdict.value.upper()}: {counted} (limit {_percent(limit)}, counted at the deadline)"
    evidence = {**_offer_evidence(total), "max_share": limit, "grace_s": grace_s}
    return GateResult("silence", Kind.OFFERS, ALL_CLASSES, verdict, sentence, evidence)


def _sum(offers: Sequence[OfferCount]) -> OfferCount:
    return OfferCount(
        hardware_class=ALL_CLASSES,
        offered=sum(item.offered for item in offers),
        committed=sum(item.committed for item in offers),
        failed=sum(item.failed for item in offers),
        rolled_back=sum(item.rolled_back for item in offers),
        silent=sum(item.silent for item in offers),
    )


def _offer_evidence(item: OfferCount) -> dict[str, object]:
    return {
        "hardware_class": item.hardware_class,
        "offered": item.offered,
        "committed": item.committed,
        "failed": item.failed,
        "rolled_back": item.rolled_back,
        "silent": item.silent,
    }


# ---------------------------------------------------------------- limits on the treated


def _limit(gate: MeasuredGate, limit: float, policy: RolloutPolicy, facts: PhaseFacts, alpha: float) -> GateResult:
    """The treated devices' own share against a fixed limit."""
    rows = _rows(facts.rows, gate, Side.TREATED, None)
    arm = RatioSums.of(_units(rows))
    needed = max(min(MIN_TREATED, facts.counts.treated), math.ceil(_sum(facts.offers).committed / 2), 1)
    found = share_of(arm, alpha=alpha, planned=facts.counts.treated)
    words = "at least" if gate.higher_is_better else "at most"
    what = f"{_named(gate, policy)} is {{}} (limit {words} {_percent(limit)}); {arm.devices} devices"
    measured = arm.ratio if arm.n > 0 else None
    if isinstance(found, Estimate) and (found.upper < limit if gate.higher_is_better else found.lower > limit):
        verdict, sentence = Verdict.FAIL, f"FAIL: {what.format(f'{_percent(found.lower)} to {_percent(found.upper)}')}"
    elif measured is None or arm.devices < needed:
        verdict = _undecided(facts)
        sentence = f"{verdict.value.upper()}: {gate.name} is known from {arm.devices} devices, needs {needed}"
    elif measured >= limit if gate.higher_is_better else measured <= limit:
        verdict, sentence = Verdict.PASS, f"PASS: {what.format(_percent(measured))}"
    else:
        verdict = _undecided(facts)
        sentence = f"{verdict.value.upper()}: {what.format(_percent(measured))}, not beyond doubt"
    evidence = {
        "metric": gate.metric,
        "limit": limit,
        "alpha": alpha,
        "needed_devices": needed,
        "treated": _arm_evidence(arm, rows),
        **_estimate_evidence(found),
    }
    return GateResult(gate.name, Kind.LIMIT, ALL_CLASSES, verdict, sentence, evidence)


# ---------------------------------------------------------------- comparisons with the control


def _compared(
    gate: MeasuredGate, stratum: Stratum, policy: RolloutPolicy, facts: PhaseFacts, alpha: float
) -> GateResult:
    """Treated minus control against the margin, signed so that lower is worse."""
    margin = gate.margin or 0.0
    sides = {side: _rows(facts.rows, gate, side, stratum.classes) for side in Side}
    treated, control = (RatioSums.of(_units(sides[side])) for side in (Side.TREATED, Side.CONTROL))
    found: Estimate | Unjudgeable
    if treated.devices < MIN_TREATED or control.devices < MIN_CONTROL:
        found = Unjudgeable(
            f"{treated.devices} treated and {control.devices} control devices have at least {gate.min_per_device} "
            f"{'labels' if gate.metric == Metric.ACCURACY else 'inferences'}, needs {MIN_TREATED} and {MIN_CONTROL}"
        )
    else:
        found = difference(
            treated, control, alpha=alpha, planned_treated=stratum.treated, planned_control=stratum.control
        )
    where = "" if stratum.name == ALL_CLASSES else f" on {stratum.name}"
    if isinstance(found, Unjudgeable):
        verdict = _undecided(facts)
        sentence = f"{verdict.value.upper()}: {gate.name}{where}: {found.reason}"
    else:
        worst, best = (found.lower, found.upper) if gate.higher_is_better else (-found.upper, -found.lower)
        verdict = Verdict.FAIL if best < -margin else Verdict.PASS if worst > -margin else _undecided(facts)
        sentence = (
            f"{verdict.value.upper()}: {_named(gate, policy)}{where} is {_apart(found)} "
            f"(margin {100 * margin:g}); {treated.devices} and {control.devices} devices"
        )
    evidence = {
        "metric": gate.metric,
        "higher_is_better": gate.higher_is_better,
        "margin": margin,
        "alpha": alpha,
        "planned": {"treated": stratum.treated, "control": stratum.control},
        "classes": sorted(stratum.classes),
        "treated": _arm_evidence(treated, sides[Side.TREATED]),
        "control": _arm_evidence(control, sides[Side.CONTROL]),
        **_estimate_evidence(found),
    }
    return GateResult(gate.name, Kind.CONTROL, stratum.name, verdict, sentence, evidence)


def _carried(gate: MeasuredGate, policy: RolloutPolicy, facts: PhaseFacts, reason: str) -> GateResult | None:
    """The verdict of the last comparison; None where there is none to wait for or where a later phase will compare."""
    found = facts.carried.get(gate.name)
    if found is not None:
        verdict = found.verdict if found.verdict is Verdict.PASS else _undecided(facts)
        sentence = f"{verdict.value.upper()}: {gate.name} carried over from phase {found.phase + 1}: {found.sentence}"
        evidence: dict[str, object] = {"from_phase": found.phase, "reason": reason}
        return GateResult(gate.name, Kind.CARRIED, ALL_CLASSES, verdict, sentence, evidence)
    later = any(has_control(phase.share, policy.control_share) for phase in policy.phases[facts.phase + 1 :])
    if later or not facts.has_baseline:
        return None
    verdict = _undecided(facts)
    sentence = f"{verdict.value.upper()}: {gate.name} was never compared with a control: {reason}"
    return GateResult(gate.name, Kind.CARRIED, ALL_CLASSES, verdict, sentence, {"reason": reason})


# ---------------------------------------------------------------- rows, words, evidence


def _rows(rows: Sequence[Row], gate: MeasuredGate, side: Side, classes: frozenset[str] | None) -> list[Row]:
    """The devices that count: of this side and these classes, with enough data, and with totals that can be."""
    return [
        row
        for row in rows
        if row.metric == gate.metric
        and row.side is side
        and (classes is None or row.hardware_class in classes)
        and row.denominator >= gate.min_per_device
        and 0 <= row.numerator <= row.denominator
    ]


def _units(rows: Sequence[Row]) -> list[Unit]:
    return [Unit(row.device_id, row.numerator, row.denominator) for row in rows]


def _named(gate: MeasuredGate, policy: RolloutPolicy) -> str:
    names: dict[str, str] = {
        Metric.ACCURACY: "accuracy",
        Metric.SLOW: f"the share of inferences slower than {policy.device.slow_ms:g} ms",
        Metric.ERRORS: "the share of failed inferences",
        Metric.NAN: "the share of inferences with NaN",
    }
    return names.get(gate.metric, gate.name)


def _apart(found: Estimate) -> str:
    """How the treated stand to the control, in percentage points."""
    low, high = 100 * found.lower, 100 * found.upper
    if high < 0:
        return f"{-high:.1f} to {-low:.1f} points lower than the control's"
    if low > 0:
        return f"{low:.1f} to {high:.1f} points higher than the control's"
    return f"between {abs(low):.1f} points lower and {high:.1f} points higher than the control's"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _arm_evidence(arm: RatioSums, rows: Sequence[Row]) -> dict[str, object]:
    listed = sorted(rows, key=lambda row: row.device_id)[:MAX_LISTED_DEVICES]
    return {
        "devices": len(rows),
        "numerator": sum(row.numerator for row in rows),
        "denominator": sum(row.denominator for row in rows),
        "ratio": arm.ratio if arm.n > 0 else None,
        "rows": [[row.device_id, row.hardware_class, row.numerator, row.denominator] for row in listed],
    }


def _estimate_evidence(found: Estimate | Unjudgeable) -> dict[str, object]:
    if isinstance(found, Unjudgeable):
        return {"value": None, "lower": None, "upper": None, "reason": found.reason}
    return {
        "value": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "standard_error": found.standard_error,
        "multiplier": found.multiplier if math.isfinite(found.multiplier) else None,
    }
