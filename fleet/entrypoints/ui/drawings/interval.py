"""A gate's interval drawn against its limit.

What counts is where the interval lies: wholly beyond the limit (fail), wholly on the good side (pass), or across it
(wait). So the limit is always in the picture, the region beyond it is shaded, and the axis is no wider than needed.
"""

from dataclasses import dataclass
from typing import Final

PADDING: Final = 0.12
WIDEST: Final = 1_000_000_000.0


@dataclass(frozen=True)
class IntervalDrawing:
    """Positions in per cent from the left."""

    low_x: float
    high_x: float
    estimate_x: float
    limit_x: float
    reference_x: float | None
    beyond_x: float
    beyond_width: float
    limit_anchor: str
    reference_anchor: str


def draw_interval(
    *, estimate: float, low: float, high: float, limit: float, lower_is_worse: bool, reference: float | None
) -> IntervalDrawing:
    """Lay out one interval. `reference` is the value of "no difference" (zero), or None for an absolute limit."""
    low, high = max(low, -WIDEST), min(high, WIDEST)
    shown = [low, high, estimate, limit, *([] if reference is None else [reference])]
    reach = (max(shown) - min(shown)) or abs(limit) or 1.0
    start, end = min(shown) - PADDING * reach, max(shown) + PADDING * reach

    def x(value: float) -> float:
        return round(100 * (value - start) / (end - start), 2)

    limit_x = x(limit)
    return IntervalDrawing(
        low_x=x(low),
        high_x=x(high),
        estimate_x=x(estimate),
        limit_x=limit_x,
        reference_x=None if reference is None else x(reference),
        beyond_x=0.0 if lower_is_worse else limit_x,
        beyond_width=limit_x if lower_is_worse else round(100 - limit_x, 2),
        limit_anchor=_anchor(limit_x),
        reference_anchor="" if reference is None else _anchor(x(reference)),
    )


def _anchor(at_x: float) -> str:
    """Text near an edge grows inwards."""
    return "start" if at_x < 12 else "end" if at_x > 88 else "middle"  # noqa: PLR2004 - about the width of a label
