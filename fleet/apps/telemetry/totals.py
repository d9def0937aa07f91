"""What new windows and labels add to totals: of gates, of devices, of versions. For this app only.

Sums alone, so that the order in which messages come does not matter; the caller has made sure that each is counted once.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from device_client.wire.director import DevicePolicy
from device_client.wire.messages import Label, TelemetryWindow
from device_client.wire.predictions import PredictionId
from device_client.wire.sketch import LatencySketch
from fleet.apps.additive import add_up
from fleet.apps.assignments import selectors as rules
from fleet.apps.devices.records import DeviceBrief
from fleet.apps.telemetry.crediting import Credit, Creditor, Moment, is_timely, summed
from fleet.apps.telemetry.models import DeviceTotal, GateTotal, VersionTotal

_COUNTS = ("n", "errors", "nan", "timed", "slow", "labels", "correct", "compared", "agreed")


def add_totals(
    windows: Sequence[tuple[str, TelemetryWindow]],
    labels: Sequence[tuple[PredictionId, Label]],
    known: Mapping[str, DeviceBrief],
    now: datetime,
) -> None:
    """Add what is new to the gates' totals and to the versions' totals."""
    device_ids = {device_id for device_id, _ in windows} | {prediction.device_id for prediction, _ in labels}
    if not device_ids:
        return
    measured = rules.active_rules_for_ingest()
    offered = rules.offered_at(rule_ids=[rule.id for rule in measured], device_ids=device_ids) if measured else {}
    creditor = Creditor(measured, offered)
    earned: list[Credit] = []
    models = {window.model for _, window in windows} | {prediction.model for prediction, _ in labels}
    own = _DeviceSums(rules.slow_thresholds(models))
    versions: dict[tuple[str, str, str], _VersionSum] = {}
    for device_id, window in windows:
        subject, started_at = known[device_id], moment_of(window.started_at, now)
        earned += creditor.window(subject, window, started_at, now)
        if is_timely(started_at, now, trusted=window.clock_trusted) and not window.during_update:
            own.window(device_id, window)
        versions.setdefault((window.model, window.version, subject.hardware_class), _VersionSum()).window(window)
    for prediction, label in labels:
        subject = known[prediction.device_id]
        moment = Moment(prediction.model, prediction.version, moment_of(prediction.second, now))
        earned += creditor.label(subject, moment, correct=label.correct, now=now)
        if is_timely(moment.measured_at, now):
            own.label(prediction, correct=label.correct)
        versions.setdefault((prediction.model, prediction.version, subject.hardware_class), _VersionSum()).label(
            correct=label.correct
        )
    add_up(
        GateTotal,
        key=("rule_id", "phase", "device_id", "side", "metric"),
        sums=("numerator", "denominator", "squares"),
        latest=("hardware_class", "updated_at"),
        rows=[
            {
                "rule_id": item.rule_id,
                "phase": item.phase,
                "device_id": item.device_id,
                "hardware_class": item.hardware_class,
                "side": item.side.value,
                "metric": item.metric,
                "numerator": item.numerator,
                "denominator": item.denominator,
                "squares": item.squares,
                "updated_at": now,
            }
            for item in summed(earned)
        ],
    )
    own.add(now)
    _add_versions(versions, now)


class _DeviceSums:
    """What one batch adds to its devices' totals, by model, version and the threshold that slow inferences are by."""

    def __init__(self, thresholds: Mapping[str, float]) -> None:
        self._thresholds = thresholds
        self._sums: dict[tuple[str, str, str, float], Counter[str]] = {}

    def _of(self, device_id: str, model: str, version: str) -> tuple[Counter[str], float]:
        slow_ms = self._thresholds.get(model, DevicePolicy().slow_ms)
        return self._sums.setdefault((model, version, device_id, slow_ms), Counter()), slow_ms

    def window(self, device_id: str, window: TelemetryWindow) -> None:
        """Add a window."""
        sums, slow_ms = self._of(device_id, window.model, window.version)
        sums.update(
            n=window.n,
            errors=window.errors,
            nan=window.nan,
            timed=window.latency.total,
            slow=window.latency.above(slow_ms),
            compared=window.compared,
            agreed=window.agreed,
        )

    def label(self, prediction: PredictionId, *, correct: bool) -> None:
        """Add a label."""
        sums, _ = self._of(prediction.device_id, prediction.model, prediction.version)
        sums.update(labels=1, correct=int(correct))

    def add(self, now: datetime) -> None:
        """Store them."""
        add_up(
            DeviceTotal,
            key=("model", "version", "device_id", "slow_ms"),
            sums=_COUNTS,
            latest=("updated_at",),
            rows=[
                {
                    "device_id": device_id,
                    "model": model,
                    "version": version,
                    "slow_ms": slow_ms,
                    **{name: sums[name] for name in _COUNTS},
                    "updated_at": now,
                }
                for (model, version, device_id, slow_ms), sums in self._sums.items()
            ],
        )


class _VersionSum:
    """What one batch adds to one version's totals on one hardware class."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.latency_sum_ms = 0.0
        self.latency = LatencySketch()

    def window(self, window: TelemetryWindow) -> None:
        """Add a window."""
        self.sums.update(n=window.n, errors=window.errors, nan=window.nan)
        self.latency_sum_ms += window.latency_sum_ms
        self.latency.merge(window.latency)

    def label(self, *, correct: bool) -> None:
        """Add a label."""
        self.sums.update(labels=1, correct=int(correct))


def _add_versions(versions: Mapping[tuple[str, str, str], _VersionSum], now: datetime) -> None:
    """Merge into the versions' totals. Sketches are merged here, so each row is locked while it is read and written."""
    add_up(
        VersionTotal,
        key=("model", "version", "hardware_class"),
        sums=("n", "errors", "nan", "latency_sum_ms", "labels", "correct"),
        latest=("updated_at",),
        rows=[
            {
                "model": model,
                "version": version,
                "hardware_class": hardware_class,
                "n": added.sums["n"],
                "errors": added.sums["errors"],
                "nan": added.sums["nan"],
                "latency": LatencySketch().encode(),
                "latency_sum_ms": added.latency_sum_ms,
                "labels": added.sums["labels"],
                "correct": added.sums["correct"],
                "updated_at": now,
            }
            for (model, version, hardware_class), added in versions.items()
        ],
    )
    for (model, version, hardware_class), added in sorted(versions.items()):
        if added.latency.total:
            row = VersionTotal.objects.select_for_update().get(
                model=model, version=version, hardware_class=hardware_class
            )
            merged = LatencySketch.decode(bytes(row.latency))
            merged.merge(added.latency)
            row.latency = merged.encode()
            row.save(update_fields=["latency"])


def moment_of(second: int, now: datetime) -> datetime:
    """A device's clock as a datetime; one that no calendar holds counts as `now`."""
    try:
        return datetime.fromtimestamp(second, tz=UTC)
    except (OverflowError, ValueError, OSError):
        return now
