"""Comparisons of an experiment as the page shows them, from the JSON in which they are judged now or were frozen.

Reads what `fleet.domain.experiment_findings` encodes. It judges nothing; a picture that cannot be drawn is left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fleet.apps.experiments.records import LookRecord
from fleet.domain.experiment_findings import Finding, Role
from fleet.domain.gate_policy import POINTS
from fleet.entrypoints.ui.drawings.course import CourseDrawing, Point, draw_course
from fleet.entrypoints.ui.drawings.forest import ForestDrawing, Interval, RowDrawing, draw_forest
from fleet.entrypoints.ui.wording import without_verdict

TONES: Final[Mapping[str, str]] = {
    Finding.BETTER.value: "pass",
    Finding.PASS.value: "pass",
    Finding.WORSE.value: "fail",
    Finding.WAIT.value: "wait",
}
NAMES: Final[Mapping[str, str]] = {
    "accuracy": "Accuracy",
    "agreement": "Agreement",
    "latency": "Slow inferences",
    "errors": "Failed inferences",
    "nan": "NaN outputs",
    "install_failures": "Installs",
}


@dataclass(frozen=True)
class Line:
    """One comparison: an arm in a stratum."""

    arm: str
    stratum: str
    finding: str
    tone: str
    sentence: str
    interval_text: str
    p_text: str
    devices: str
    drawing: RowDrawing | None


@dataclass(frozen=True)
class MetricCard:
    """One metric over all arms and strata, under one axis."""

    name: str
    role: str
    is_success: bool
    better: str
    lines: tuple[Line, ...]
    forest: ForestDrawing | None
    margin_text: str
    unit: str
    courses: tuple[tuple[str, CourseDrawing], ...]


def metric_cards(comparisons: Sequence[Mapping[str, object]], looks: Sequence[LookRecord]) -> tuple[MetricCard, ...]:
    """A card for every metric and role, success first, in the order in which they were judged."""
    found: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for item in comparisons:
        found.setdefault((str(item.get("role")), str(item.get("metric"))), []).append(item)
    return tuple(_card(role, metric, items, looks) for (role, metric), items in found.items())


def _card(role: str, metric: str, items: list[Mapping[str, object]], looks: Sequence[LookRecord]) -> MetricCard:
    higher = bool(items[0].get("higher_is_better"))
    allowed = _number(items[0].get("margin"))
    margin = None if allowed is None or role != Role.GUARDRAIL.value else (-allowed if higher else allowed)
    drawn = [interval for item in items if (interval := _interval(item)) is not None]
    forest = draw_forest(drawn, margin=margin) if drawn else None
    shown = _own if bool(items[0].get("own_unit")) else _points
    rows = iter(forest.rows if forest is not None else ())
    lines = tuple(_line(item, next(rows) if _interval(item) is not None else None, shown) for item in items)
    # Over time only where it is asked which is better; of a guardrail, where it stands is enough.
    arms = dict.fromkeys(str(item.get("arm")) for item in items if role == Role.SUCCESS.value)
    courses = ((arm, _course(arm, metric, role, looks)) for arm in arms)
    return MetricCard(
        name=NAMES.get(metric, metric),
        role=role,
        is_success=role == Role.SUCCESS.value,
        better="more is better" if higher else "less is better",
        lines=lines,
        forest=forest,
        margin_text="" if margin is None else shown(margin),
        unit=" points" if shown is _points else "",
        courses=tuple((arm, course) for arm, course in courses if course is not None),
    )


def _line(item: Mapping[str, object], drawing: RowDrawing | None, shown: Callable[[float], str]) -> Line:
    finding = str(item.get("finding", ""))
    low, high, value = (_number(item.get(key)) for key in ("lower", "upper", "value"))
    p = _number(item.get("p_adjusted"))
    interval = "" if low is None or high is None or value is None else f"{shown(value)} ({shown(low)} to {shown(high)})"
    return Line(
        arm=str(item.get("arm", "")),
        stratum=str(item.get("stratum", "")),
        finding=finding,
        tone=TONES.get(finding, ""),
        sentence=without_verdict(str(item.get("sentence", ""))),
        interval_text=interval,
        p_text="" if p is None else f"{p:.2g}",
        devices=" and ".join(_devices(item.get(side)) for side in ("treated", "control") if item.get(side)),
        drawing=drawing,
    )


def _course(arm: str, metric: str, role: str, looks: Sequence[LookRecord]) -> CourseDrawing | None:
    points = [
        Point(look.at.timestamp(), interval.value, interval.low, interval.high)
        for look in looks
        for item in _of(look.intervals, arm, metric, role)
        if (interval := _interval(item)) is not None
    ]
    return draw_course(points)


def _of(intervals: Iterable[Mapping[str, object]], arm: str, metric: str, role: str) -> Iterable[Mapping[str, object]]:
    return (
        item for item in intervals if (item.get("arm"), item.get("metric"), item.get("role")) == (arm, metric, role)
    )


def _interval(item: Mapping[str, object]) -> Interval | None:
    value, low, high = (_number(item.get(key)) for key in ("value", "lower", "upper"))
    return None if value is None or low is None or high is None else Interval(value, low, high)


def _devices(arm: object) -> str:
    return f"{arm.get('devices', 0):,}" if isinstance(arm, Mapping) else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _own(value: float) -> str:
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _points(value: float) -> str:
    points = round(POINTS * value, 1)
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}") if points else "0"
