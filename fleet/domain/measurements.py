"""What devices measured in one phase: each device's totals, and the arms that they add up to. Values only.

`measure` turns the first into the second; gates judge the second, which costs the same for 12 devices and for 40,000.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from fleet.domain.stats.samples import Sample


class Side(StrEnum):
    """Which arm a device's totals belong to."""

    TREATED = "treated"
    CONTROL = "control"


class Total(NamedTuple):
    """One device's total of one metric. `squares` sums the squared values, where the metric is a mean of values."""

    numerator: float
    denominator: float
    squares: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device in a phase: its totals by metric, and those of its own time under the earlier version.

    A metric is among `before` only if it was counted in the same way: slow inferences by the same threshold.
    """

    device_id: str
    hardware_class: str
    side: Side
    totals: Mapping[str, Total]
    before: Mapping[str, Total] = field(default_factory=dict)


class Totals(NamedTuple):
    """Totals of one metric, one entry per device; a denominator of zero: this device has none.

    `squares` sums the squared values, where the metric is a mean of values; empty where nobody asks for them.
    """

    numerators: Sequence[float]
    denominators: Sequence[float]
    squares: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """The devices of one hardware class on one side: columns with one entry per device, all in the order of `ids`.

    `before` is of the devices' own time under the earlier version; empty if none has such a time.
    """

    ids: Sequence[str]
    totals: Mapping[str, Totals]
    before: Mapping[str, Totals] = field(default_factory=dict)


Groups = Mapping[tuple[str, Side], DeviceGroup]  # by hardware class and side


def grouped(rows: Iterable[DeviceRow]) -> Groups:
    """Rows as columns."""
    found: dict[tuple[str, Side], list[DeviceRow]] = {}
    for row in rows:
        found.setdefault((row.hardware_class, row.side), []).append(row)
    return {
        key: DeviceGroup(
            [row.device_id for row in own],
            _columns([row.totals for row in own]),
            _columns([row.before for row in own]),
        )
        for key, own in found.items()
    }


def _columns(totals: Sequence[Mapping[str, Total]]) -> dict[str, Totals]:
    nothing = Total(0.0, 0.0)
    metrics = sorted({metric for item in totals for metric in item})
    return {metric: Totals(*zip(*(item.get(metric, nothing) for item in totals), strict=True)) for metric in metrics}


class Listed(NamedTuple):
    """One device's figures in the evidence."""

    device_id: str
    hardware_class: str
    numerator: float
    denominator: float


@dataclass(frozen=True)
class Arm:
    """One side of one stratum, one vote per device.

    `mean` and `raw` are of the devices' values as measured; `raw` is empty where no limit is read from it. `adjusted` takes
    out what their own past explains (CUPED) where the arm is compared with another; elsewhere it is `raw`. `listed` are
    some of the devices, for the evidence.
    """

    devices: int = 0
    numerator: float = 0.0
    denominator: float = 0.0
    mean: float = 0.0
    raw: Sample = field(default_factory=Sample)
    adjusted: Sample = field(default_factory=Sample)
    listed: tuple[Listed, ...] = ()

    @classmethod
    def of(cls, sample: Sample, *, numerator: float = 0.0, denominator: float = 0.0) -> "Arm":
        """An arm without a past and without a list."""
        return cls(sample.devices, numerator, denominator, sample.plain.value, sample, sample)


@dataclass(frozen=True)
class Measured:
    """One gate's metric in one stratum. `theta` is how much of the past was taken out, None where there is none.

    `own_past` is of the treated devices' differences from their own time under the earlier version; empty where they are
    compared with a control.
    """

    treated: Arm = field(default_factory=Arm)
    control: Arm = field(default_factory=Arm)
    theta: float | None = None
    own_past: Sample = field(default_factory=Sample)


@dataclass(frozen=True)
class CrashCount:
    """Devices of one class and side that reported, those of them that crashed at least once, and their hours."""

    hardware_class: str
    side: Side
    devices: int
    crashed: int
    hours: float


@dataclass(frozen=True)
class WatchCount:
    """Devices of one class and side that were there before the phase began, and how many are silent now."""

    hardware_class: str
    side: Side
    devices: int
    silent: int


@dataclass(frozen=True)
class Measures:
    """Everything that was measured in a phase. `by_gate` is keyed by the gate's and the stratum's name."""

    by_gate: Mapping[tuple[str, str], Measured] = field(default_factory=dict)
    crashes: tuple[CrashCount, ...] = ()

    def of(self, gate: str, stratum: str) -> Measured:
        """Of this gate in this stratum; nothing where nothing was measured."""
        return self.by_gate.get((gate, stratum), Measured())
