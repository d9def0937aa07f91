"""What `telemetry` takes and tells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from device_client.wire.messages import LabelBatch, Presence, StateReport, TelemetryWindow
from device_client.wire.topics import Up

Report = StateReport | TelemetryWindow | LabelBatch | Presence
_KINDS: Final[Mapping[type[Report], Up]] = {
    StateReport: Up.STATE,
    TelemetryWindow: Up.TELEMETRY,
    LabelBatch: Up.LABEL,
    Presence: Up.PRESENCE,
}


@dataclass(frozen=True, order=True)
class DurableKey:
    """Names a message that is stored and that its device may forget."""

    device_id: str
    boot: str
    seq: int


@dataclass(frozen=True)
class Incoming:
    """A parsed message. `device_id` is from the topic, which the broker has authorised."""

    device_id: str
    message: Report

    @property
    def kind(self) -> str:
        """The last part of the topic that such messages come by."""
        return _KINDS[type(self.message)].value


@dataclass(frozen=True)
class Dropped:
    """A message that is refused for good. `kind` is the topic's last part, `code` names the reason."""

    kind: str
    code: str
    device_id: str
    detail: str


@dataclass(frozen=True)
class DroppedCount:
    """How often messages of a kind were refused for a reason, and the last one."""

    kind: str
    code: str
    count: int
    last_device_id: str
    last_detail: str
    last_at: datetime


class GateRow(NamedTuple):
    """One device's total of one metric on one side of a phase: what a gate reads."""

    device_id: str
    hardware_class: str
    side: str
    metric: str
    numerator: float
    denominator: float
    squares: float = 0.0


class TotalsTable(NamedTuple):
    """The devices of one hardware class and side in a phase, as columns with one entry per device.

    `totals` are numerators, denominators and, where they were asked for, squares of each metric; zeros where a device has
    none.
    """

    ids: Sequence[str]
    totals: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class VersionSummary:
    """Totals of one version on one hardware class, or on all of them (empty class). For display, never for a verdict.

    Latencies in milliseconds; None where nothing was measured.
    """

    version: str
    hardware_class: str
    n: int
    errors: int
    nan: int
    p50_ms: float | None
    p95_ms: float | None
    mean_ms: float | None
    labels: int
    correct: int
    devices: int

    @property
    def accuracy(self) -> float | None:
        """The share of labels that agree, or None without labels."""
        return self.correct / self.labels if self.labels else None
