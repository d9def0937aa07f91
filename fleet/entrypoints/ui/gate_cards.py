"""Gates as the pages show them, from the JSON in which they are judged now and kept with a decision.

Reads what `fleet.domain.verdicts.GateResult.encode` writes. It judges nothing: a picture that cannot be drawn from the
evidence is left out, and the sentence stands alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fleet.domain.gate_policy import POINTS, Metric, Shape
from fleet.domain.verdicts import Kind, Verdict
from fleet.entrypoints.ui.drawings.interval import IntervalDrawing, draw_interval
from fleet.entrypoints.ui.drawings.outcomes import OutcomeDrawing, draw_installs, draw_silence
from fleet.entrypoints.ui.drawings.strip import StripDrawing, draw_strip
from fleet.entrypoints.ui.wording import without_verdict

NAMES: Final[Mapping[str, str]] = {
    "install_failures": "Installs",
    "silence": "Silence",
    "rollbacks": "Rollbacks",
    "crashes": "Crashes",
    "arms": "Arms",
    "accuracy": "Accuracy",
    "agreement": "Agreement",
    "latency": "Latency",
    "errors": "Failed inferences",
    "nan": "NaN outputs",
}
MANNERS: Final[Mapping[str, str]] = {
    Kind.OFFERS.value: "every device that was offered it counts",
    Kind.LIMIT.value: "treated devices against a limit",
    Kind.CONTROL.value: "treated devices against the control",
    Kind.CARRIED.value: "carried over from the last compared phase",
    Kind.OWN_PAST.value: "treated devices against their own past",
    Kind.ARMS.value: "devices are shared out as meant",
}

# Kinds whose interval is of a difference: what zero means, and of what it is.
DIFFERENCES: Final[Mapping[str, tuple[str, str]]] = {
    Kind.CONTROL.value: ("same as control", "Treated minus control"),
    Kind.OWN_PAST.value: ("same as before", "Treated now minus before"),
}
OWN_UNITS: Final = (Shape.RATIO.value, Shape.MEAN.value)


@dataclass(frozen=True)
class DeviceRow:
    """One device in a comparison."""

    device_id: str
    hardware_class: str
    numerator: float
    denominator: float

    @property
    def share(self) -> float:
        """What the device contributes; a gate reads no row without a denominator."""
        return self.numerator / self.denominator if self.denominator else 0.0


@dataclass(frozen=True)
class Arm:
    """What one side of a phase measured."""

    name: str
    devices: int
    numerator: float
    denominator: float
    ratio: float | None
    rows: tuple[DeviceRow, ...]


@dataclass(frozen=True)
class GateCard:
    """One gate. Texts stand beside the drawing's marks; `unit` says what they count."""

    name: str
    manner: str
    kind: str
    stratum: str
    verdict: str
    sentence: str
    interval: IntervalDrawing | None
    low_text: str
    high_text: str
    estimate_text: str
    limit_text: str
    reference_text: str
    confidence: float | None
    outcomes: OutcomeDrawing | None
    arms: tuple[Arm, ...]
    strip: StripDrawing | None
    is_advisory: bool
    difference_of: str
    unit: str


def most_telling_first(cards: Iterable[GateCard]) -> tuple[GateCard, ...]:
    """Failed gates first, then undecided ones; otherwise as they came."""
    order = (Verdict.FAIL.value, Verdict.INCONCLUSIVE.value, Verdict.WAIT.value)
    return tuple(sorted(cards, key=lambda card: order.index(card.verdict) if card.verdict in order else len(order)))


def gate_cards(gates: object) -> tuple[GateCard, ...]:
    """A card for every encoded gate, in order; none where there are no gates."""
    found = gates if isinstance(gates, list | tuple) else ()
    return tuple(_card(item) for item in found if isinstance(item, Mapping))


def _card(gate: Mapping[str, object]) -> GateCard:
    evidence = gate.get("evidence")
    evidence = evidence if isinstance(evidence, dict) else {}
    name, kind = str(gate.get("name", "")), str(gate.get("kind", ""))
    arms = tuple(_arm(side, evidence[side]) for side in ("treated", "control") if isinstance(evidence.get(side), dict))
    interval, limit = _interval(kind, evidence)
    low, high, value = (_number(evidence.get(key)) for key in ("lower", "upper", "value"))
    alpha = _number(evidence.get("alpha"))
    is_difference = kind in DIFFERENCES
    words = _plain if evidence.get("shape") in OWN_UNITS else _points if is_difference else _share
    return GateCard(
        name=NAMES.get(name, name.replace("_", " ")),
        manner=MANNERS.get(kind, kind),
        kind=kind,
        stratum=str(gate.get("stratum", "")),
        verdict=str(gate.get("verdict", "")),
        sentence=without_verdict(str(gate.get("sentence", ""))),
        interval=interval,
        low_text=words(low),
        high_text=words(high),
        estimate_text=words(value),
        limit_text="" if limit is None else words(limit),
        reference_text=DIFFERENCES[kind][0] if is_difference else "",
        confidence=None if alpha is None else 1 - alpha,
        outcomes=_outcomes(kind, name, evidence),
        arms=arms,
        strip=None
        if evidence.get("shape") in OWN_UNITS
        else draw_strip([[row.share for row in arm.rows] for arm in arms]),
        is_advisory=bool(gate.get("advisory")),
        difference_of=DIFFERENCES[kind][1] if is_difference else "",
        unit="" if evidence.get("shape") in OWN_UNITS else " points",
    )


def _interval(kind: str, evidence: Mapping[str, object]) -> tuple[IntervalDrawing | None, float | None]:
    """The interval and the value that it must not lie beyond."""
    low, high, value = (_number(evidence.get(key)) for key in ("lower", "upper", "value"))
    if kind in DIFFERENCES:
        lower_is_worse = bool(evidence.get("higher_is_better"))
        margin = _number(evidence.get("margin"))
        limit = None if margin is None else -margin if lower_is_worse else margin
        reference: float | None = 0.0
    elif kind == Kind.LIMIT.value:
        lower_is_worse = bool(evidence.get("higher_is_better", evidence.get("metric") == Metric.ACCURACY.value))
        limit, reference = _number(evidence.get("limit")), None
    else:
        return None, None
    if low is None or high is None or value is None or limit is None:
        return None, limit
    drawing = draw_interval(
        estimate=value, low=low, high=high, limit=limit, lower_is_worse=lower_is_worse, reference=reference
    )
    return drawing, limit


def _outcomes(kind: str, name: str, evidence: Mapping[str, object]) -> OutcomeDrawing | None:
    if kind != Kind.OFFERS.value:
        return None

    def count(key: str) -> int:
        return int(_number(evidence.get(key)) or 0)

    if name == "rollbacks":
        return None
    if name == "silence":
        return draw_silence(offered=count("offered"), silent=count("silent"))
    return draw_installs(
        planned=count("planned"),
        offered=count("offered"),
        committed=count("committed"),
        failed=count("failed") + count("rolled_back"),
    )


def _arm(name: str, arm: Mapping[str, object]) -> Arm:
    rows = arm.get("rows")
    return Arm(
        name=name,
        devices=int(_number(arm.get("devices")) or 0),
        numerator=_number(arm.get("numerator")) or 0.0,
        denominator=_number(arm.get("denominator")) or 0.0,
        ratio=_number(arm.get("ratio")),
        rows=tuple(DeviceRow(*row) for row in rows) if isinstance(rows, list | tuple) else (),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _points(value: float | None) -> str:
    """A difference of shares, in percentage points."""
    if value is None:
        return ""
    points = round(POINTS * value, 1)
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}") if points else "0"


def _plain(value: float | None) -> str:
    """In the metric's own unit."""
    return "" if value is None else f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g}\N{NO-BREAK SPACE}%"
