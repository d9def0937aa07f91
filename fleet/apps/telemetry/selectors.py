"""Reads what devices measured. Every function costs a constant number of queries."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from django.db import connection
from django.db.models import Count, Sum

from device_client.wire.sketch import LatencySketch
from fleet.apps.telemetry.models import DroppedMessage, GateTotal, VersionTotal, Window
from fleet.apps.telemetry.records import DroppedCount, GateRow, TotalsTable, VersionSummary

ROWS_AT_ONCE: Final = 5_000


def gate_totals(*, rule_id: int, phase: int) -> tuple[GateRow, ...]:
    """Every device's totals in one phase of a rule, both sides."""
    rows = GateTotal.objects.filter(rule_id=rule_id, phase=phase).order_by("device_id", "side", "metric")
    found = rows.values_list("device_id", "hardware_class", "side", "metric", "numerator", "denominator", "squares")
    return tuple(map(GateRow._make, found.iterator(chunk_size=ROWS_AT_ONCE)))


def phase_totals(*, rule_id: int, phase: int, metrics: Mapping[str, bool]) -> Mapping[tuple[str, str], TotalsTable]:
    """Every device's totals of these metrics in one phase of a rule, as columns by hardware class and side.

    `metrics` says of each whether its squares are wanted. One statement, and one row for each device and side.
    """
    wanted = [
        (column, metric)
        for metric, with_squares in metrics.items()
        for column in ("numerator", "denominator", *(("squares",) if with_squares else ()))
    ]
    sums = "".join(f", COALESCE(SUM({column}) FILTER (WHERE metric = %s), 0.0)" for column, _ in wanted)
    statement = (
        f"SELECT device_id, MAX(hardware_class), side{sums} "  # noqa: S608 - names of our own columns
        f"FROM {GateTotal._meta.db_table} WHERE rule_id = %s AND phase = %s GROUP BY device_id, side"  # noqa: SLF001
    )
    grouped: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    with connection.cursor() as cursor:
        cursor.execute(statement, [*(metric for _, metric in wanted), rule_id, phase])
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            for row in rows:
                grouped.setdefault(row[1:3], []).append(row)
    return {key: _table(found, metrics) for key, found in grouped.items()}


def _table(rows: Sequence[tuple[Any, ...]], metrics: Mapping[str, bool]) -> TotalsTable:
    ids, _, _, *columns = zip(*rows, strict=True)
    left = iter(columns)
    totals = {
        metric: (next(left), next(left), next(left) if with_squares else ()) for metric, with_squares in metrics.items()
    }
    return TotalsTable(ids, totals)


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
