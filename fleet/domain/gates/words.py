"""How results are put: sentences for operators, and the JSON that is frozen with a decision."""

import math

from fleet.domain.gate_policy import MeasuredGate, Metric, Shape
from fleet.domain.measurements import Arm
from fleet.domain.policy import RolloutPolicy
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.samples import Location
from fleet.domain.strata import ALL_CLASSES
from fleet.domain.verdicts import PhaseFacts, Verdict

_UNITS = {Metric.ACCURACY.value: "labels", Metric.AGREEMENT.value: "answers compared"}


def undecided(facts: PhaseFacts) -> Verdict:
    """What a gate without proof says."""
    return Verdict.INCONCLUSIVE if facts.at_deadline else Verdict.WAIT


def saying(verdict: Verdict, words: str) -> str:
    """A sentence that begins with its verdict."""
    return f"{verdict.value.upper()}: {words}"


def named(gate: MeasuredGate, policy: RolloutPolicy) -> str:
    """The metric as the subject of a sentence."""
    names = {
        Metric.ACCURACY.value: "accuracy",
        Metric.AGREEMENT.value: "agreement with the reference answers",
        Metric.SLOW.value: f"the share of inferences slower than {policy.device.slow_ms:g} ms",
        Metric.ERRORS.value: "the share of failed inferences",
        Metric.NAN.value: "the share of inferences with NaN",
    }
    return names.get(gate.metric, gate.name)


def counted(gate: MeasuredGate) -> str:
    """What a device must have enough of."""
    return "values" if gate.shape is Shape.MEAN else _UNITS.get(gate.metric, "inferences")


def on(stratum: str) -> str:
    """Where: nothing if it is everywhere."""
    return "" if stratum == ALL_CLASSES else f" on {stratum}"


def percent(share: float) -> str:
    """A share of devices or inferences."""
    return f"{100 * share:.3g}%"


def amount(gate: MeasuredGate, value: float) -> str:
    """A value of the gate's metric, in its own unit."""
    return percent(value) if gate.shape is Shape.SHARE else f"{value:.4g}"


def margin(gate: MeasuredGate) -> str:
    """How much worse the treated may be."""
    size = gate.margin or 0.0
    words = f"{100 * size:g}" if gate.shape is Shape.SHARE else f"{size:g}"
    return f"margin {words}" if gate.max_ratio is None else f"margin {words} and {gate.max_ratio:g} times"


def apart(gate: MeasuredGate, found: Estimate, than: str) -> str:
    """How the treated stand to `than`."""
    if math.isinf(found.upper - found.lower):
        return f"not yet told apart from {than}"
    low, high = (_distance(gate, abs(bound)) for bound in (found.lower, found.upper))
    unit = " points" if gate.shape is Shape.SHARE else ""
    if found.upper < 0:
        return f"{high} to {low}{unit} lower than {than}"
    if found.lower > 0:
        return f"{low} to {high}{unit} higher than {than}"
    return f"between {low}{unit} lower and {high}{unit} higher than {than}"


def _distance(gate: MeasuredGate, value: float) -> str:
    return f"{100 * value:.1f}" if gate.shape is Shape.SHARE else f"{value:.3g}"


def estimate_evidence(found: Estimate | Unjudgeable) -> dict[str, object]:
    """An estimate as JSON, which knows no infinity; or why there is none."""
    if isinstance(found, Unjudgeable):
        return {"value": None, "lower": None, "upper": None, "reason": found.reason}
    return {
        "value": found.value,
        "lower": _finite(found.lower),
        "upper": _finite(found.upper),
        "standard_error": found.standard_error,
        "multiplier": _finite(found.multiplier),
    }


def arm_evidence(arm: Arm) -> dict[str, object]:
    """One side's devices, sums and places."""
    return {
        "devices": arm.devices,
        "numerator": arm.numerator,
        "denominator": arm.denominator,
        "ratio": arm.mean if arm.devices else None,
        "plain": _place(arm.adjusted.plain),
        "trimmed": _place(arm.adjusted.trimmed),
        "rows": [list(item) for item in arm.listed],
    }


def _place(found: Location) -> dict[str, object] | None:
    """None where nothing was read from it: over several strata there are only sums."""
    return None if found.n == 0 else {"devices": found.n, "value": found.value, "unit_variance": found.unit_variance}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
