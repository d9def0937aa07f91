"""What became of a phase's devices, as one line: installed, failed, still at it, not yet offered; heard of, silent."""

from collections.abc import Iterator, Sequence
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


def draw_installs(*, planned: int, offered: int, committed: int, failed: int) -> OutcomeDrawing | None:
    """How far a phase's devices have come; None without any device."""
    whole = max(planned, offered)
    under_way = max(0, offered - committed - failed)
    return _draw(
        whole,
        (
            ("committed", committed),
            ("failed", failed),
            ("pending", under_way),
            ("unoffered", whole - committed - failed - under_way),
        ),
    )


def draw_silence(*, offered: int, silent: int) -> OutcomeDrawing | None:
    """Which of the devices that were offered something were heard of since; None without any."""
    return _draw(offered, (("heard", offered - silent), ("silent", silent)))


def _draw(whole: int, counts: Sequence[tuple[str, int]]) -> OutcomeDrawing | None:
    return OutcomeDrawing(whole, tuple(_parts(counts, whole))) if whole else None


def _parts(counts: Sequence[tuple[str, int]], whole: int) -> Iterator[Part]:
    at = 0
    for name, count in counts:
        if count > 0:
            yield Part(name, count, round(100 * at / whole, 2), round(100 * count / whole, 2))
        at += max(0, count)
