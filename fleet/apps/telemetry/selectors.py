"""Reads what devices measured. Every function costs a constant number of queries."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from django.db.models import Count, Sum

from device_client.wire.sketch import LatencySketch
from fleet.apps.telemetry.models import DeviceTotal, DroppedMessage, GateTotal, LabelCredit, VersionTotal, Window
from fleet.apps.telemetry.records import DroppedCount, GateRow, VersionSummary, WindowRecord
from fleet.domain.gate_policy import Metric

# What a device's past is made of: each metric's two columns of `DeviceTotal`.
PAST_METRICS: Final[Mapping[str, tuple[str, str]]] = {
    Metric.ACCURACY.value: ("correct", "labels"),
    Metric.AGREEMENT.value: ("agreed", "compared"),
    Metric.SLOW.value: ("slow", "timed"),
    Metric.ERRORS.value: ("errors", "n"),
    Metric.NAN.value: ("nan", "n"),
}
ROWS_AT_ONCE: Final = 5_000
PAST_COLUMNS: Final = tuple(sorted({column for pair in PAST_METRICS.values() for column in pair}))


def gate_totals(*, rule_id: int, phase: int) -> tuple[GateRow, ...]:
    """Every device's totals in one phase of a rule, both sides."""
    rows = GateTotal.objects.filter(rule_id=rule_id, phase=phase).order_by("device_id", "side", "metric")
    found = rows.values_list("device_id", "hardware_class", "side", "metric", "numerator", "denominator", "squares")
    return tuple(map(GateRow._make, found.iterator(chunk_size=ROWS_AT_ONCE)))


def pasts(
    *, rule_id: int, phase: int, model: str, version: str, slow_ms: float, keeping: Collection[str] = ()
) -> Mapping[str, Mapping[str, tuple[float, float]]]:
    """What devices with totals in this phase measured of `version` before the rule began: by device and metric.

    Their totals of that version, less what they measured of it for the rule: as its control, and as its treated devices
    if they are among `keeping`, whose arm of an experiment is that version. Slow inferences only by the same threshold.
    """
    present = GateTotal.objects.filter(rule_id=rule_id, phase=phase).values("device_id")
    found: dict[str, dict[str, list[float]]] = {}
    rows = DeviceTotal.objects.filter(model=model, version=version, device_id__in=present)
    for row in rows.values("device_id", "slow_ms", *PAST_COLUMNS):
        sums = found.setdefault(row["device_id"], {metric: [0.0, 0.0] for metric in PAST_METRICS})
        for metric, (counted, out_of) in PAST_METRICS.items():
            if metric != Metric.SLOW or row["slow_ms"] == slow_ms:
                sums[metric][0] += row[counted]
                sums[metric][1] += row[out_of]
    since = GateTotal.objects.filter(rule_id=rule_id, device_id__in=present)
    if not keeping:
        since = since.filter(side=GateTotal.Side.CONTROL)
    totals = since.values_list("device_id", "side", "metric").annotate(Sum("numerator"), Sum("denominator"))
    for device_id, side, metric, numerator, denominator in totals:
        own = side == GateTotal.Side.CONTROL or device_id in keeping
        if own and metric in PAST_METRICS and device_id in found:
            found[device_id][metric][0] -= numerator
            found[device_id][metric][1] -= denominator
    return {
        device_id: {metric: (counted, out_of) for metric, (counted, out_of) in sums.items() if out_of > 0}
        for device_id, sums in found.items()
    }


def version_summary(model: str) -> tuple[VersionSummary, ...]:
    """Totals of each version of `model` on each hardware class. `devices` is left at 0 here."""
    rows = VersionTotal.objects.filter(model=model).order_by("version", "hardware_class")
    return tuple(_summary(row.version, row.hardware_class, [row], devices=0) for row in rows)


def version_overall(model: str, *, with_devices: bool = True) -> tuple[VersionSummary, ...]:
    """Totals of each version of `model` over all hardware classes, with the number of devices that reported.

    Counting those devices reads every window; without it the cost does not depend on the fleet's size.
    """
    rows: dict[str, list[VersionTotal]] = {}
    for row in VersionTotal.objects.filter(model=model).order_by("version", "hardware_class"):
        rows.setdefault(row.version, []).append(row)
    windows = Window.objects.filter(model=model, n__gt=0)
    reporting = (
        dict(windows.values_list("version").annotate(n=Count("device_id", distinct=True))) if with_devices else {}
    )
    return tuple(_summary(version, "", found, devices=reporting.get(version, 0)) for version, found in rows.items())


def failed_inferences(model: str = "") -> int:
    """How many inferences failed, of one model or of all."""
    rows = VersionTotal.objects.filter(model=model) if model else VersionTotal.objects.all()
    return int(rows.aggregate(n=Sum("errors"))["n"] or 0)


def device_windows(*, device_id: str, model: str = "", limit: int = 200) -> tuple[WindowRecord, ...]:
    """The newest windows of a device, newest first."""
    rows = Window.objects.filter(device_id=device_id).order_by("-started_at")
    if model:
        rows = rows.filter(model=model)
    return tuple(_window(row) for row in rows[:limit])


def device_labels(*, device_id: str, model: str) -> tuple[int, int]:
    """How many labels of a device there are for a model, and how many of them are correct."""
    rows = LabelCredit.objects.filter(device_id=device_id, model=model)
    return rows.count(), rows.filter(correct=True).count()


def dropped() -> tuple[DroppedCount, ...]:
    """Refused messages by kind and reason."""
    return tuple(
        DroppedCount(row.kind, row.code, row.count, row.last_device_id, row.last_detail, row.last_at)
        for row in DroppedMessage.objects.order_by("kind", "code")
    )


def _summary(version: str, hardware_class: str, rows: Iterable[VersionTotal], *, devices: int) -> VersionSummary:
    latency = LatencySketch()
    n = errors = nan = labels = correct = 0
    latency_sum_ms = 0.0
    for row in rows:
        latency.merge(LatencySketch.decode(bytes(row.latency)))
        n, errors, nan = n + row.n, errors + row.errors, nan + row.nan
        labels, correct = labels + row.labels, correct + row.correct
        latency_sum_ms += row.latency_sum_ms
    return VersionSummary(
        version=version,
        hardware_class=hardware_class,
        n=n,
        errors=errors,
        nan=nan,
        p50_ms=latency.quantile(0.5),
        p95_ms=latency.quantile(0.95),
        mean_ms=latency_sum_ms / latency.total if latency.total else None,
        labels=labels,
        correct=correct,
        devices=devices,
    )


def _window(row: Window) -> WindowRecord:
    latency = LatencySketch.decode(bytes(row.latency))
    return WindowRecord(
        started_at=row.started_at,
        duration_s=row.duration_s,
        version=row.version,
        route=row.route,
        n=row.n,
        errors=row.errors,
        nan=row.nan,
        p50_ms=latency.quantile(0.5),
        p95_ms=latency.quantile(0.95),
        rss_bytes=row.rss_bytes,
        during_update=row.during_update,
        clock_trusted=row.clock_trusted,
        metrics=row.metrics,
    )
