"""One dot a device, one line an arm: whether a difference is in all devices or in a few of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PADDING: Final = 0.06
RADIUS: Final = 4.5
LARGEST_RADIUS: Final = 10.0


@dataclass(frozen=True)
class Dot:
    """Devices at one place: in per cent from the left, with a radius in pixels that grows with their number."""

    x: float
    count: int
    radius: float


@dataclass(frozen=True)
class StripDrawing:
    """The dots, arm by arm, and the ends of the common axis."""

    arms: tuple[tuple[Dot, ...], ...]
    low: float
    high: float


def draw_strip(arms: Sequence[Sequence[float]]) -> StripDrawing | None:
    """Lay out the ratios of the devices of each arm on one axis; None where there is nothing to tell apart."""
    values = [value for arm in arms for value in arm]
    if len(set(values)) < 2:  # noqa: PLR2004 - all in one place
        return None
    low, high = min(values), max(values)
    start, reach = low - PADDING * (high - low), (high - low) * (1 + 2 * PADDING)
    return StripDrawing(
        tuple(_dots([round(100 * (value - start) / reach) for value in arm]) for arm in arms), low, high
    )


def _dots(places: Sequence[int]) -> tuple[Dot, ...]:
    counts = Counter(places)
    return tuple(
        Dot(x, count, min(LARGEST_RADIUS, round(RADIUS * count**0.5, 1))) for x, count in sorted(counts.items())
    )
