"""One dot a device, one line an arm: whether a difference is in all devices or in a few of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PADDING: Final = 0.06


@dataclass(frozen=True)
class StripDrawing:
    """Places of the dots in per cent, arm by arm, and the ends of the common axis."""

    arms: tuple[tuple[float, ...], ...]
    low: float
    high: float


def draw_strip(arms: Sequence[Sequence[float]]) -> StripDrawing | None:
    """Lay out the ratios of the devices of each arm on one axis; None without any."""
    values = [value for arm in arms for value in arm]
    if not values:
        return None
    low, high = min(values), max(values)
    reach = (high - low) or 1.0
    start, end = low - PADDING * reach, high + PADDING * reach
    return StripDrawing(
        tuple(tuple(round(100 * (value - start) / (end - start), 2) for value in arm) for arm in arms), low, high
    )
