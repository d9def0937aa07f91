"""A forest plot: intervals of several comparisons under one axis, so that their places can be compared by eye.

The axis is common to the rows of one metric and holds zero, every interval, and the margin where there is one. Intervals
so wide that they would squeeze the others are cut at the edge; their texts say the whole of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PADDING: Final = 0.08
WIDEST: Final = 6.0  # times the narrowest interval's reach; what lies beyond is cut


@dataclass(frozen=True)
class Interval:
    """Treatment minus control, in the metric's own unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RowDrawing:
    """Positions in per cent from the left."""

    low_x: float
    high_x: float
    estimate_x: float


@dataclass(frozen=True)
class ForestDrawing:
    """One row for each interval, in order; zero and the margin are the same for all."""

    rows: tuple[RowDrawing, ...]
    zero_x: float
    margin_x: float | None


def draw_forest(intervals: Sequence[Interval], *, margin: float | None) -> ForestDrawing:
    """Lay out these intervals. `margin` is where a guardrail is broken: signed, on the bad side of zero."""
    marks = [0.0, *([] if margin is None else [margin]), *(item.value for item in intervals)]
    nearest = min((max(abs(item.low), abs(item.high)) for item in intervals), default=1.0) or 1.0
    reach = max(WIDEST * nearest, 1.1 * max(abs(mark) for mark in marks))
    shown = [*marks, *(min(max(edge, -reach), reach) for item in intervals for edge in (item.low, item.high))]
    span = (max(shown) - min(shown)) or 1.0
    start, end = min(shown) - PADDING * span, max(shown) + PADDING * span

    def x(value: float) -> float:
        return round(100 * (min(max(value, start), end) - start) / (end - start), 2)

    return ForestDrawing(
        rows=tuple(RowDrawing(x(item.low), x(item.high), x(item.value)) for item in intervals),
        zero_x=x(0.0),
        margin_x=None if margin is None else x(margin),
    )
