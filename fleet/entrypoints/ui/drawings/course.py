"""How an interval went over time: a band that narrows as evidence comes in, against zero.

Coordinates are of a box of 1000 x 100, stretched to the page; y grows downwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 1_000
HEIGHT: Final = 100
FEWEST: Final = 2


@dataclass(frozen=True)
class Point:
    """At one moment, in seconds since the start."""

    at_s: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CourseDrawing:
    """The band and the estimate as SVG points; where zero is."""

    band: str
    line: str
    zero_y: float


def draw_course(points: Sequence[Point]) -> CourseDrawing | None:
    """Lay out the course; None for fewer than two moments. Early intervals are cut at twice the last one's reach."""
    if len(points) < FEWEST:
        return None
    last = points[-1]
    reach = 2 * max(abs(last.low), abs(last.high), *(abs(point.value) for point in points)) or 1.0
    top = min(reach, max(0.0, *(point.high for point in points)))
    bottom = max(-reach, min(0.0, *(point.low for point in points)))
    begin, span_s = points[0].at_s, (last.at_s - points[0].at_s) or 1.0

    def place(point: Point, value: float) -> str:
        return f"{WIDTH * (point.at_s - begin) / span_s:.1f},{y(value):.1f}"

    def y(value: float) -> float:
        return HEIGHT * (top - min(max(value, bottom), top)) / ((top - bottom) or 1.0)

    upper = [place(point, point.high) for point in points]
    lower = [place(point, point.low) for point in reversed(points)]
    return CourseDrawing(
        band=" ".join([*upper, *lower]),
        line=" ".join(place(point, point.value) for point in points),
        zero_y=round(y(0.0), 1),
    )
