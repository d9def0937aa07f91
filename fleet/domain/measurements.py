"""What devices measured in one phase: each device's totals, and the arms that they add up to. Values only.

`measure` turns the first into the second; gates judge the second, which costs the same for 12 devices and for 40,000.
"""

from collections.abc import Mapping
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


class Listed(NamedTuple):
    """One device's figures in the evidence."""

    device_id: str
    hardware_class: str
    numerator: float
    denominator: float


@dataclass(frozen=True)
class Arm:
    """One side of one stratum, one vote per device.

    `raw` is of the devices' values as measured; `adjusted` takes out what their own past explains (CUPED), and is the
    same where there is no past. `listed` are some of the devices, for the evidence.
    """

    devices: int = 0
    numerator: float = 0.0
    denominator: float = 0.0
    raw: Sample = field(default_factory=Sample)
    adjusted: Sample = field(default_factory=Sample)
    listed: tuple[Listed, ...] = ()

    @classmethod
    def of(cls, sample: Sample, *, numerator: float = 0.0, denominator: float = 0.0) -> "Arm":
        """An arm without a past and without a list."""
        return cls(sample.devices, numerator, denominator, sample, sample)


@dataclass(frozen=True)
class Measured:
    """One gate's metric in one stratum. `theta` is how much of the past was taken out, None where there is none.

    `own_past` is of the treated devices' differences from their own time under the earlier version.
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
