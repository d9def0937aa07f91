"""Measurements that are not taken in, what gates and pasts are made of, and what goes when it is old. On both databases."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from device_client.wire.bucketing import BUCKETS
from device_client.wire.messages import LabelBatch, MetricTotals, TelemetryWindow
from fleet.apps.assignments import services as assignments
from fleet.apps.assignments.models import Rule
from fleet.apps.devices import services as devices
from fleet.apps.telemetry import admission, pasts, retention, selectors, services
from fleet.apps.telemetry.models import DeviceTotal, LabelCredit, VersionTotal, Window
from fleet.apps.telemetry.records import DurableKey, GateRow
from fleet.domain.facts import RuleState
from fleet.domain.policy import RolloutPolicy
from tests.fakes.fleet_simulator import FleetSimulator, SimulatedDevice
from tests.server.catalogue import MODEL, NOW, later, make_model, make_version

pytestmark = pytest.mark.django_db


@pytest.fixture
def device() -> SimulatedDevice:
    make_model()
    (found,) = FleetSimulator(1, model=MODEL)
    devices.enrol(device_id=found.device_id, hardware_class=found.hardware_class, attributes={}, now=NOW)
    return found


def store(device: SimulatedDevice, *items: TelemetryWindow | LabelBatch, at_s: float = 1.0) -> tuple[DurableKey, ...]:
    return services.store(batch=[(device.device_id, item) for item in items], now=later(at_s))


def refused() -> dict[tuple[str, str], int]:
    return {(item.kind, item.code): item.count for item in selectors.dropped()}


# ---------------------------------------------------------------- the door


@pytest.mark.parametrize(
    ("change", "code"),
    [({"version": "999"}, "no_such_version"), ({"model": "vision.nothing"}, "no_such_model")],
)
def test_window__of_a_name_that_nobody_pushed__is_counted_and_forgotten(
    device: SimulatedDevice, change: dict[str, Any], code: str
) -> None:
    made_up = replace(device.window(NOW), **change)
    assert len(store(device, made_up, device.window(NOW))) == 2
    assert Window.objects.count() == VersionTotal.objects.count() == 1
    assert refused() == {("telemetry", code): 1}


def test_label__of_a_version_that_nobody_pushed__is_counted_and_not_stored(device: SimulatedDevice) -> None:
    device.running = replace(device.running, version="999")
    batch = device.labels(NOW, n=3, accuracy=1.0)
    store(device, batch)
    assert services.credit_labels(labels=batch.labels, now=later(2)) == 0
    assert not LabelCredit.objects.exists()
    assert refused() == {("label", "no_such_version"): 6}


def test_replay__of_what_was_purged__is_refused_for_its_age(device: SimulatedDevice) -> None:
    window, labels = device.window(NOW), device.labels(NOW, n=2, accuracy=1.0)
    store(device, window, labels)
    much_later = NOW + admission.LABELS_KEPT + timedelta(days=2)
    assert retention.purge(now=much_later) == 1 + 2 + 1  # a window, its labels, the total of a device long gone
    assert not Window.objects.exists()
    services.store(batch=[(device.device_id, window), (device.device_id, labels)], now=much_later)
    assert VersionTotal.objects.get().n == window.n
    assert refused() == {("telemetry", "too_old"): 1, ("label", "too_old"): 2}


def test_purge__little_by_little__and_nothing_that_is_young(device: SimulatedDevice) -> None:
    store(device, *(device.window(NOW) for _ in range(5)))
    assert retention.purge(now=NOW + admission.WINDOWS_KEPT) == 0
    old = NOW + admission.WINDOWS_KEPT + timedelta(days=2)
    assert [retention.purge(now=old, most=2) for _ in range(4)] == [2, 2, 1, 0]


def test_flood__of_one_device__is_capped_and_hinders_no_other(
    device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MAX_WINDOWS_PER_HOUR", 5)
    monkeypatch.setattr(admission, "MAX_LABELS_PER_HOUR", 7)
    store(device, *(device.window(NOW) for _ in range(4)), device.labels(NOW, n=5, accuracy=1.0))
    assert len(store(device, *(device.window(NOW) for _ in range(4)), device.labels(NOW, n=5, accuracy=1.0))) == 5
    assert (Window.objects.count(), LabelCredit.objects.count()) == (5, 7)
    assert refused() == {("telemetry", "too_many"): 3, ("label", "too_many"): 3}
    store(device, device.window(later(3_700)), at_s=3_700)
    assert Window.objects.count() == 6


# ---------------------------------------------------------------- totals


def rule(metrics: dict[str, str] | None) -> int:
    release = make_version("2")
    rule_id = assignments.create_rule(
        source="r-000000000001",
        model=MODEL,
        version_id=release.id,
        seed="s",
        policy=RolloutPolicy.parse({"phases": [{"share": 1}], "device": {"slow_ms": 8.0}, "allow_delta": False}),
        metrics=metrics,
        now=NOW,
    )
    assignments.set_rule(rule_id=rule_id, state=RuleState.RUNNING, phase=0, treated_end=0, control_start=0, now=NOW)
    return rule_id


def totals(rule_id: int) -> dict[str, GateRow]:
    return {row.metric: row for row in selectors.gate_totals(rule_id=rule_id, phase=0)}


def test_totals__declared_metrics__are_counted_and_no_others(device: SimulatedDevice) -> None:
    rule_id = rule(
        {"errors": "share", "agreement": "share", "crashes": "share", "custom.rejects": "ratio", "custom.score": "mean"}
    )
    window = replace(
        device.window(later(1), n=50),
        crashes=2,
        compared=10,
        agreed=9,
        metrics={
            "rejects": MetricTotals(3, 3.0, 3.0),
            "score": MetricTotals(4, 8.0, 20.0),
            "made_up": MetricTotals(1, 1, 1),
        },
    )
    quiet = device.window(later(1), n=50)
    store(device, window, quiet, window, at_s=20)
    found = totals(rule_id)
    assert {name: (row.numerator, row.denominator) for name, row in found.items() if name != "crashes"} == {
        "errors": (0, 100),
        "agreement": (9, 10),
        "custom.rejects": (3, 100),
        "custom.score": (8, 4),
    }
    assert found["custom.score"].squares == 20
    assert found["crashes"].numerator == 2
    assert found["crashes"].denominator == pytest.approx(20 / 3_600)


def test_totals__rule_that_declares_nothing__counts_what_is_built_in(device: SimulatedDevice) -> None:
    rule_id = rule(None)
    store(device, device.window(later(1), n=50), device.labels(later(1), n=5, accuracy=1.0), at_s=20)
    assert set(totals(rule_id)) == {"errors", "nan", "slow", "accuracy", "crashes"}


def test_totals__crash_in_a_window_during_the_update__counts_and_nothing_else_of_it(device: SimulatedDevice) -> None:
    rule_id = rule(None)
    store(device, replace(device.window(later(1)), during_update=True, crashes=1), at_s=20)
    assert set(totals(rule_id)) == {"crashes"}
    assert not DeviceTotal.objects.exists()


# ---------------------------------------------------------------- pasts


def past(device: SimulatedDevice, rule_id: int, slow_ms: float = 8.0) -> dict[str, tuple[float, float]]:
    """What is known of the device's past, by metric."""
    known = pasts.pasts(pasts.Earlier(rule_id, 0, MODEL, "factory", slow_ms), [device.device_id])
    found = {metric: pasts.past_of(known, device.device_id, metric) for metric in pasts.PAST_METRICS}
    return {metric: (total.numerator, total.denominator) for metric, total in found.items() if total is not None}


def test_past__of_a_control_device__ends_where_the_rule_begins(device: SimulatedDevice) -> None:
    device.seq = 100
    store(device, device.window(later(-60), n=40, errors=4), device.labels(later(-60), n=5, accuracy=1.0), at_s=-50)
    rule_id = rule(None)
    store(device, device.window(later(5), n=30, errors=3), device.labels(later(5), n=6, accuracy=0.0), at_s=10)
    found = past(device, rule_id)
    assert (found["errors"], found["accuracy"]) == ((4, 40), (5, 5))
    assert "slow" not in found  # its earlier windows were counted by another threshold


def test_past__same_threshold__has_slow_inferences_too(device: SimulatedDevice) -> None:
    rule_id = rule(None)
    Rule.objects.update(treated_end=BUCKETS, control_start=BUCKETS)
    assert past(device, rule_id) == {}
    store(device, device.window(later(1), n=30, latency_ms=20.0), at_s=10)
    Rule.objects.update(treated_end=0, control_start=0)
    store(device, device.window(later(2), n=30, latency_ms=20.0), at_s=10)
    slow, timed = past(device, rule_id)["slow"]
    assert timed == 30
    assert slow > 25


def test_device_totals__replayed_in_any_order__count_once(device: SimulatedDevice) -> None:
    items: list[TelemetryWindow | LabelBatch] = [
        device.window(later(1), n=10),
        device.window(later(2), n=20),
        device.labels(later(3), n=4, accuracy=1.0),
    ]
    store(device, *items, at_s=10)
    store(device, *reversed(items), at_s=11)
    row = DeviceTotal.objects.get()
    assert (row.n, row.timed, row.labels, row.correct) == (30, 30, 4, 4)
