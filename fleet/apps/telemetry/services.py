"""Stores what devices measured and report: once and only once, whatever is replayed and in whatever order it comes.

Rows first, then totals for the rows that were new, in one transaction; only then may a device be told to forget.
Totals are sums, so the order of messages does not matter to them. A message that the wire contract refuses never comes
here; it is only counted.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from django.db import transaction

from device_client.wire.errors import WireError
from device_client.wire.messages import Label, LabelBatch, MessageKey, Presence, StateReport, TelemetryWindow
from device_client.wire.predictions import PredictionId
from fleet.apps.additive import add_up, insert_new
from fleet.apps.assignments import services as assignments
from fleet.apps.devices import selectors as devices
from fleet.apps.devices import services as device_services
from fleet.apps.devices.records import DeviceBrief
from fleet.apps.registry import selectors as registry
from fleet.apps.telemetry.admission import Admission
from fleet.apps.telemetry.models import DroppedMessage, LabelCredit, Window
from fleet.apps.telemetry.records import Dropped, DurableKey, Incoming
from fleet.apps.telemetry.totals import add_totals, moment_of

_WINDOW_KEY = ("device_id", "boot", "seq")
_LABEL_KEY = ("prediction", "source")


@transaction.atomic
def take_in(*, messages: Sequence[Incoming], now: datetime) -> tuple[DurableKey, ...]:
    """Store a batch of messages of any kind; returns the keys that are durable once this has returned.

    Messages of unknown, revoked or quarantined devices are dropped and counted. Either the whole batch is stored or,
    when this raises, nothing of it.
    """
    known = devices.briefs({item.device_id for item in messages})
    # Two workers that lock devices in the same order do not wait for each other in a circle.
    messages = sorted(messages, key=lambda item: item.device_id)
    accepted = [item for item in messages if item.device_id in known and known[item.device_id].is_active]
    refused = [item for item in messages if item.device_id not in known or not known[item.device_id].is_active]
    durable: list[DurableKey] = []
    reports = [(item.device_id, item.message) for item in accepted if isinstance(item.message, StateReport)]
    named = {digest for _, report in reports for digest in (report.active_digest, report.digest) if digest}
    weights = registry.weights_by_digest(named) if named else {}
    new = device_services.record_states(reports=reports, weights=weights, now=now)
    assignments.record_reports(reports=new, now=now)
    durable += [_key(device_id, report.key) for device_id, report in reports]
    for item in accepted:
        if isinstance(item.message, Presence):
            device_services.record_presence(
                device_id=item.device_id,
                online=item.message.online,
                client_version=item.message.client_version,
                now=now,
            )
    measured = [
        (item.device_id, item.message) for item in accepted if isinstance(item.message, (TelemetryWindow, LabelBatch))
    ]
    durable += _store(measured, known, now)
    alive = {item.device_id for item in accepted if not isinstance(item.message, Presence)}
    if alive:
        device_services.touch(device_ids=alive, now=now)
    _count([Dropped(item.kind, "device_not_active", item.device_id, "") for item in refused], now)
    return tuple(durable)


@transaction.atomic
def store(*, batch: Sequence[tuple[str, TelemetryWindow | LabelBatch]], now: datetime) -> tuple[DurableKey, ...]:
    """Store windows and labels of known devices; returns the keys that are durable once this has returned."""
    return tuple(_store(batch, devices.briefs({device_id for device_id, _ in batch}), now))


@transaction.atomic
def credit_labels(*, labels: Sequence[Label], now: datetime) -> int:
    """Store labels that people or a pipeline bring, credited by prediction id; returns how many were new.

    Raises `MalformedMessageError` for the first id that is none.
    """
    found = [(PredictionId.parse(label.prediction), label) for label in labels]
    known = devices.briefs({prediction.device_id for prediction, _ in found})
    # People and pipelines are trusted with how many they bring; a name that nobody pushed is still none.
    door = Admission.at(models={prediction.model for prediction, _ in found}, windows_of=(), labels_of=(), now=now)
    admitted = [item for item in found if item[0].device_id in known and door.label(item[0])]
    new = _new_labels(admitted, now)
    add_totals([], new, known, now)
    _count(door.refused, now)
    return len(new)


def count_dropped(*, kind: str, code: str, device_id: str, detail: str, now: datetime) -> None:
    """Count one refused message."""
    count_all_dropped(dropped=[Dropped(kind, code, device_id, detail)], now=now)


@transaction.atomic
def count_all_dropped(*, dropped: Sequence[Dropped], now: datetime) -> None:
    """Count refused messages, keeping the last sample of each kind and reason."""
    _count(dropped, now)


def _store(
    batch: Sequence[tuple[str, TelemetryWindow | LabelBatch]], known: Mapping[str, DeviceBrief], now: datetime
) -> list[DurableKey]:
    """Store what is admitted; what is not is counted and never wanted again, so that its device may forget it, too."""
    windows = {
        (device_id, item.key.boot, item.key.seq): (device_id, item)
        for device_id, item in reversed(batch)
        if isinstance(item, TelemetryWindow)
    }
    labels: list[tuple[PredictionId, Label]] = []
    refused: list[Dropped] = []
    for device_id, item in batch:
        if isinstance(item, LabelBatch):
            own, foreign = _own_labels(device_id, item)
            labels += own
            refused += foreign
    door = Admission.at(
        models={window.model for _, window in windows.values()} | {prediction.model for prediction, _ in labels},
        windows_of={device_id for device_id, _ in windows.values()},
        labels_of={prediction.device_id for prediction, _ in labels},
        now=now,
    )
    admitted = {key: found for key, found in windows.items() if door.window(*found)}
    rows = [_window(device_id, window, now) for device_id, window in admitted.values()]
    inserted = insert_new(rows, key=_WINDOW_KEY)
    new_labels = _new_labels([item for item in labels if door.label(item[0])], now)
    add_totals([admitted[key] for key in sorted(inserted)], new_labels, known, now)
    _count([*refused, *door.refused], now)
    return [_key(device_id, item.key) for device_id, item in batch]


def _own_labels(device_id: str, batch: LabelBatch) -> tuple[list[tuple[PredictionId, Label]], list[Dropped]]:
    """The labels whose predictions this device made; a device cannot speak about another's."""
    own: list[tuple[PredictionId, Label]] = []
    refused: list[Dropped] = []
    for label in batch.labels:
        try:
            prediction = PredictionId.parse(label.prediction)
        except WireError as error:
            refused.append(Dropped("label", error.code, device_id, str(error)))
            continue
        if prediction.device_id == device_id:
            own.append((prediction, label))
        else:
            refused.append(Dropped("label", "foreign_prediction", device_id, f"it names {prediction.device_id}"))
    return own, refused


def _new_labels(labels: Iterable[tuple[PredictionId, Label]], now: datetime) -> list[tuple[PredictionId, Label]]:
    """Insert labels; returns those that were not stored before."""
    unique: dict[tuple[str, str], tuple[PredictionId, Label]] = {}
    for prediction, label in labels:
        unique.setdefault((label.prediction, label.source), (prediction, label))
    rows = [
        LabelCredit(
            prediction=label.prediction,
            source=label.source,
            device_id=prediction.device_id,
            model=prediction.model,
            version=prediction.version,
            revision=prediction.revision,
            predicted_at=moment_of(prediction.second, now),
            label=label.label,
            correct=label.correct,
            received_at=now,
        )
        for prediction, label in unique.values()
    ]
    return [unique[key] for key in sorted(insert_new(rows, key=_LABEL_KEY))]


def _window(device_id: str, window: TelemetryWindow, now: datetime) -> Window:
    return Window(
        device_id=device_id,
        boot=window.key.boot,
        seq=window.key.seq,
        model=window.model,
        version=window.version,
        digest=window.digest,
        revision=window.revision,
        route=window.route,
        started_at=moment_of(window.started_at, now),
        duration_s=window.duration_s,
        n=window.n,
        errors=window.errors,
        nan=window.nan,
        latency=window.latency.encode(),
        latency_sum_ms=window.latency_sum_ms,
        latency_sum_squares=window.latency_sum_squares,
        during_update=window.during_update,
        clock_trusted=window.clock_trusted,
        rss_bytes=window.rss_bytes,
        metrics={
            name: {"n": item.n, "total": item.total, "total_squared": item.total_squared}
            for name, item in window.metrics.items()
        },
        received_at=now,
    )


def _count(dropped: Collection[Dropped], now: datetime) -> None:
    last = {(item.kind[:16], item.code[:32]): item for item in dropped}
    counts = Counter((item.kind[:16], item.code[:32]) for item in dropped)
    add_up(
        DroppedMessage,
        key=("kind", "code"),
        sums=("count",),
        latest=("last_device_id", "last_detail", "last_at"),
        rows=[
            {
                "kind": kind,
                "code": code,
                "count": counts[kind, code],
                "last_device_id": item.device_id[:63],
                "last_detail": _storable(item.detail),
                "last_at": now,
            }
            for (kind, code), item in last.items()
        ],
    )


def _storable(text: str) -> str:
    """Text that both databases take: without NUL and lone surrogates, which JSON from outside may hold."""
    return text.replace("\x00", "").encode(errors="replace").decode()[:512]


def _key(device_id: str, key: MessageKey) -> DurableKey:
    return DurableKey(device_id, key.boot, key.seq)
