"""What became of a phase's devices, as one line: installed, failed, silent, still at it, not yet offered."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One piece of the line, in per cent, with what it counts."""

    name: str
    count: int
    x: float
    width: float


@dataclass(frozen=True)
class OutcomeDrawing:
    """The pieces from left to right; those without devices are left out."""

    planned: int
    parts: tuple[Part, ...]


def draw_outcomes(*, planned: int, offered: int, committed: int, failed: int, silent: int) -> OutcomeDrawing | None:
    """Lay out the counts; None without any device."""
    whole = max(planned, offered)
    if whole == 0:
        return None
    under_way = max(0, offered - committed - failed - silent)
    counts = (
        ("committed", committed),
        ("failed", failed),
        ("silent", silent),
        ("pending", under_way),
        ("unoffered", whole - committed - failed - silent - under_way),
    )
    return OutcomeDrawing(whole, tuple(_parts(counts, whole)))


def _parts(counts: Iterable[tuple[str, int]], whole: int) -> Iterable[Part]:
    at = 0
    for name, count in counts:
        if count > 0:
            yield Part(name, count, round(100 * at / whole, 2), round(100 * count / whole, 2))
        at += max(0, count)
