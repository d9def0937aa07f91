"""What devices measured of the earlier version before a rule began: the past that a look takes out of the present.

Their totals of that version, less what they measured of it for the rule. Slow inferences only by the same threshold. Read by the devices' keys, some thousand at a time: joins over the same tables were planned as scans for each
device where the database had not yet noticed how they had grown.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from django.db import connection

from fleet.apps.telemetry.models import DeviceTotal, GateTotal
from fleet.domain.gate_policy import Metric
from fleet.domain.measurements import Total

# What a device's past is made of: each metric's two columns of `DeviceTotal`.
PAST_METRICS: Final[Mapping[str, tuple[str, str]]] = {
    Metric.ACCURACY.value: ("correct", "labels"),
    Metric.AGREEMENT.value: ("agreed", "compared"),
    Metric.SLOW.value: ("slow", "timed"),
    Metric.ERRORS.value: ("errors", "n"),
    Metric.NAN.value: ("nan", "n"),
}
IDS_AT_ONCE: Final = 5_000
AGAIN: Final = 500
MAX_RULES: Final = 100
Past = tuple[float, ...]  # a numerator and a denominator for each of `PAST_METRICS`, in their order
NO_PAST: Final[Past] = (0.0,) * (2 * len(PAST_METRICS))


@dataclass(frozen=True)
class Earlier:
    """Which past: of `version` of `model`, before the rule began, which is in `phase` by now."""

    rule_id: int
    phase: int
    model: str
    version: str
    slow_ms: float


def pasts(earlier: Earlier, device_ids: Sequence[str], *, keeping: Collection[str] = ()) -> dict[str, Past]:
    """The pasts of those of these devices that have one. Two statements for each `IDS_AT_ONCE` devices.

    For the rule, devices measured the version as its control, and as its treated devices if they are among `keeping`:
    those whose arm of an experiment is that version.
    """
    found: dict[str, Past] = {}
    for start in range(0, len(device_ids), IDS_AT_ONCE):
        ids = device_ids[start : start + IDS_AT_ONCE]
        own = dict(_totals_of(ids, earlier))
        for device_id, since in _since(ids, earlier, keeping):
            if device_id in own:
                own[device_id] = tuple(a - b for a, b in zip(own[device_id], since, strict=True))
        found.update(own)
    return found


def past_of(known: Mapping[str, Past], device_id: str, metric: str) -> Total | None:
    """One device's past of one metric; None if it has none."""
    places = list(PAST_METRICS)
    if metric not in places or device_id not in known:
        return None
    start = 2 * places.index(metric)
    numerator, denominator = known[device_id][start : start + 2]
    return Total(numerator, denominator) if denominator > 0 else None


class PastCache:
    """Pasts that a process has read, for one that looks at the same devices every second.

    A past is of a time that is over: only late labels still change it. So a device's is read when it is first asked for,
    and the `AGAIN` that were read longest ago with every look: all of 40,000 within two minutes.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Earlier, dict[str, Past]] = OrderedDict()

    def of(self, earlier: Earlier, device_ids: Sequence[str]) -> Mapping[str, Past]:
        """At least the pasts of these devices; `NO_PAST` for those that have none."""
        known = self._known.setdefault(earlier, {})
        self._known.move_to_end(earlier)
        wanted = [device_id for device_id in device_ids if device_id not in known]
        wanted += list(islice(known, AGAIN))
        found = pasts(earlier, wanted)
        for device_id in wanted:
            known.pop(device_id, None)
            known[device_id] = found.get(device_id, NO_PAST)
        while len(self._known) > MAX_RULES:
            self._known.popitem(last=False)
        return known


def _totals_of(ids: Sequence[str], earlier: Earlier) -> Iterator[tuple[str, Past]]:
    """All that these devices ever measured of the version."""
    sums, values = "", list[str | float]()
    for metric, columns in PAST_METRICS.items():
        for column in columns:
            is_slow = metric == Metric.SLOW
            sums += f", CAST(COALESCE(SUM({column}){' FILTER (WHERE slow_ms = %s)' * is_slow}, 0) AS double precision)"
            values += [earlier.slow_ms] * is_slow
    yield from _by_device(
        DeviceTotal, sums, "model = %s AND version = %s", [*values, earlier.model, earlier.version], ids
    )


def _since(ids: Sequence[str], earlier: Earlier, keeping: Collection[str]) -> Iterator[tuple[str, Past]]:
    """What they measured of it for the rule, in all its phases so far, each of which is named: the index begins with it."""
    sums, values = "", list[str | float]()
    for metric in PAST_METRICS:
        for column in ("numerator", "denominator"):
            sums += f", COALESCE(SUM({column}) FILTER (WHERE metric = %s), 0.0)"
            values.append(metric)
    phases = range(earlier.phase + 1)
    of_rule = f"rule_id = %s AND phase IN ({', '.join(['%s'] * len(phases))})"
    values += [earlier.rule_id, *phases]
    both = [device_id for device_id in ids if device_id in keeping]
    if both:
        yield from _by_device(GateTotal, sums, of_rule, values, both)
    others = [device_id for device_id in ids if device_id not in keeping]
    if others:
        control = [*values, GateTotal.Side.CONTROL.value]
        yield from _by_device(GateTotal, sums, f"{of_rule} AND side = %s", control, others)


def _by_device(
    model: type[DeviceTotal | GateTotal], sums: str, where: str, values: Sequence[str | float], ids: Sequence[str]
) -> Iterator[tuple[str, Past]]:
    marks = ", ".join(["%s"] * len(ids))
    statement = (
        f"SELECT device_id{sums} FROM {model._meta.db_table} "  # noqa: S608, SLF001 - names of our own columns
        f"WHERE {where} AND device_id IN ({marks}) GROUP BY device_id"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [*values, *ids])
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    for device_id, *numbers in rows:
        yield device_id, tuple(numbers)
