"""The heat map of versions by hardware class: how much of each class runs each version, in six steps.

The share is of the class, so that a column reads from top to bottom: where does this kind of device stand? Devices that
have been silent for long stand apart: they are no sign of a rollout's progress, nor of its failure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fleet.apps.devices.records import RunningCount

STEPS: Final = 6


@dataclass(frozen=True)
class HeatCell:
    """One version on one class. `share` is of the class's devices that are not away."""

    hardware_class: str
    count: int
    share: float
    step: int


@dataclass(frozen=True)
class HeatRow:
    """One version on every class."""

    version: str
    cells: tuple[HeatCell, ...]
    total: int
    away: int


@dataclass(frozen=True)
class HeatMap:
    """Versions, newest first, by classes in alphabetical order."""

    classes: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    class_totals: tuple[int, ...]
    total: int
    away: int


def draw_heat(counts: Iterable[RunningCount]) -> HeatMap:
    """Lay out the counts."""
    seen = [item for item in counts if item.count > 0]
    classes = tuple(sorted({item.hardware_class for item in seen}))
    versions = sorted({item.version for item in seen}, key=_newest_first, reverse=True)
    here: dict[tuple[str, str], int] = {}
    away: dict[str, int] = {}
    for item in seen:
        key = (item.version, item.hardware_class)
        here[key] = here.get(key, 0) + item.count - item.silent
        away[item.version] = away.get(item.version, 0) + item.silent
    totals = {name: sum(here.get((version, name), 0) for version in versions) for name in classes}
    rows = tuple(
        HeatRow(
            version=version,
            cells=tuple(_cell(name, here.get((version, name), 0), totals[name]) for name in classes),
            total=sum(here.get((version, name), 0) for name in classes),
            away=away[version],
        )
        for version in versions
    )
    return HeatMap(
        classes=classes,
        rows=rows,
        class_totals=tuple(totals[name] for name in classes),
        total=sum(totals.values()),
        away=sum(away.values()),
    )


def _newest_first(version: str) -> tuple[int, str]:
    """Labels are numbers, counted up; no version at all comes last."""
    return (int(version), "") if version.isascii() and version.isdigit() else (-1, version)


def _cell(hardware_class: str, count: int, total: int) -> HeatCell:
    share = count / total if total else 0.0
    step = 0 if count == 0 else min(STEPS, 1 + int(share * STEPS * 0.999))
    return HeatCell(hardware_class, count, share, step)
