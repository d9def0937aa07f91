"""Telemetry: once and only once, in any order, credited to the side that the bucket says."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from device_client.wire.bucketing import BUCKETS
from device_client.wire.errors import MalformedMessageError
from device_client.wire.messages import MetricTotals, Presence, StateReport, TelemetryWindow
from device_client.wire.predictions import PredictionId
from device_client.wire.sketch import LatencySketch
from device_client.wire.states import FailureCode, Transport, UpdateState
from fleet.apps.assignments import selectors as rules
from fleet.apps.assignments import services as assignments
from fleet.apps.devices import selectors as device_selectors
from fleet.apps.devices import services as devices
from fleet.apps.telemetry import selectors, services
from fleet.apps.telemetry.models import GateTotal, LabelCredit, VersionTotal, Window
from fleet.apps.telemetry.records import DurableKey, Incoming, Report
from fleet.apps.telemetry.savings import savings
from fleet.domain.facts import RuleState
from fleet.domain.policy import RolloutPolicy
from fleet.entrypoints.gateway.lifecycle import with_database
from tests.fakes.fleet_simulator import FleetSimulator, SimulatedDevice, shuffled
from tests.server.catalogue import MODEL, NOW, Release, later, make_model, make_version

pytestmark = pytest.mark.django_db

SEED = "s1"


def enrolled(size: int, classes: Sequence[str] = ("edge-std",)) -> FleetSimulator:
    make_model()
    fleet = FleetSimulator(size, model=MODEL, classes=classes)
    for device in fleet:
        devices.enrol(device_id=device.device_id, hardware_class=device.hardware_class, attributes={}, now=NOW)
    return fleet


def start_rule(release: Release, treated: int = 500_000, control: int = 500_000) -> int:
    rule_id = assignments.create_rule(
        source="r-000000000001",
        model=MODEL,
        version_id=release.id,
        seed=SEED,
        policy=RolloutPolicy.parse({"phases": [{"share": 1}], "device": {"slow_ms": 8.0}, "allow_delta": False}),
        now=NOW,
    )
    assignments.set_rule(
        rule_id=rule_id, state=RuleState.RUNNING, phase=0, treated_end=treated, control_start=control, now=NOW
    )
    return rule_id


def update(device: SimulatedDevice, release: Release, at: datetime) -> list[StateReport]:
    answer = assignments.answer_check(device_id=device.device_id, check=device.check(at), now=at)
    targets = {target.path: (target.sha256, target.custom) for target in answer.targets}
    return list(device.install(at)) if device.obey(answer.binding, targets, release.weights_by_digest) else []


def take(device: SimulatedDevice, *messages: Report, at: datetime = NOW) -> tuple[DurableKey, ...]:
    return services.take_in(messages=[Incoming(device.device_id, item) for item in messages], now=at)


def gates(rule_id: int, phase: int = 0) -> Counter[tuple[str, str, str]]:
    """(side, metric, n or d) -> sum over devices."""
    total: Counter[tuple[str, str, str]] = Counter()
    for row in selectors.gate_totals(rule_id=rule_id, phase=phase):
        total[row.side, row.metric, "n"] += int(row.numerator)
        total[row.side, row.metric, "d"] += int(row.denominator)
    return total


# ---------------------------------------------------------------- once and only once


def test_store__replayed__changes_nothing() -> None:
    (device,) = enrolled(1)
    batch: list[Report] = [device.window(NOW, n=10, errors=1), device.labels(NOW, n=5, accuracy=1.0)]
    first = take(device, *batch)
    again = take(device, *reversed(batch), *batch)
    assert set(first) == set(again) == {DurableKey(device.device_id, device.boot, seq) for seq in (1, 2)}
    (row,) = selectors.version_overall(MODEL)
    assert (row.n, row.errors, row.labels, row.correct, row.devices) == (10, 1, 5, 5, 1)
    assert selectors.failed_inferences() == 1
    assert LabelCredit.objects.filter(device_id=device.device_id, correct=True).count() == 5


def test_store__same_window_twice_in_one_batch__counts_once() -> None:
    (device,) = enrolled(1)
    window = device.window(NOW, n=10)
    take(device, window, window, replace(window, n=10))
    assert Window.objects.count() == 1
    assert selectors.version_summary(MODEL)[0].n == 10


def test_store__label_under_another_batch__counts_once_per_source() -> None:
    (device,) = enrolled(1)
    batch = device.labels(NOW, n=3, accuracy=0.0)
    again = replace(batch, key=device.next_key())
    other = replace(batch, key=device.next_key(), labels=tuple(replace(item, source="person") for item in batch.labels))
    take(device, batch)
    take(device, again, other)
    assert selectors.version_overall(MODEL)[0].labels == 6


def test_take_in__any_order_and_batching__ends_in_the_same_totals() -> None:
    new = make_version("2")
    rule_id = start_rule(new)
    fleet = enrolled(12, ("edge-std", "edge-big"))
    messages: list[Incoming] = []
    for device in fleet:
        story: list[Report] = [device.window(later(1), n=50)]
        story += update(device, new, later(5))
        story += [
            device.window(later(20), n=80, errors=2, latency_ms=9.0),
            device.labels(later(21), n=10, accuracy=0.8),
        ]
        messages += [Incoming(device.device_id, item) for item in story]
    ends = []
    for order in range(3):
        Window.objects.all().delete()
        LabelCredit.objects.all().delete()
        _forget_totals()
        sent = shuffled(messages + messages, order)
        size = (7, 1, 500)[order]
        for start in range(0, len(sent), size):
            services.take_in(messages=sent[start : start + size], now=later(30))
        # Sums of floats differ in their last bits with the order; counts and sketches do not.
        rows = [replace(row, mean_ms=round(row.mean_ms or 0.0, 6)) for row in selectors.version_summary(MODEL)]
        ends.append((gates(rule_id), rows))
    assert ends[0] == ends[1] == ends[2]
    assert ends[0][0]["treated", "accuracy", "d"] > 0


def _forget_totals() -> None:
    GateTotal.objects.all().delete()
    VersionTotal.objects.all().delete()


@pytest.mark.django_db(transaction=True)
def test_take_in__two_workers_with_the_same_messages__count_once() -> None:
    new = make_version("2")
    rule_id = start_rule(new, treated=BUCKETS)
    fleet = enrolled(6)
    messages: list[Incoming] = []
    for device in fleet:
        story: list[Report] = [*update(device, new, later(5))]
        story += [device.window(later(10 + number), n=20) for number in range(5)]
        story.append(device.labels(later(11), n=8, accuracy=0.5))
        messages += [Incoming(device.device_id, item) for item in story]
    failures: list[BaseException] = []

    def work(order: int) -> None:
        try:
            sent = shuffled(messages, order)
            for start in range(0, len(sent), 9):
                _retrying(sent[start : start + 9])
        except BaseException as error:  # noqa: BLE001 - a thread must not swallow it
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(order,)) for order in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert gates(rule_id)["treated", "errors", "d"] == 6 * 5 * 20
    assert gates(rule_id)["treated", "accuracy", "d"] == 6 * 8
    assert selectors.version_summary(MODEL)[0].n == 6 * 5 * 20
    assert [row.committed for row in rules.offers(rule_id=rule_id, phase=0, now=later(99), grace_s=9)] == [6]


def _retrying(batch: Sequence[Incoming]) -> None:
    with_database(lambda: services.take_in(messages=batch, now=later(30)), threading.Event(), attempts=10)


# ---------------------------------------------------------------- sides


def test_credit__treated_and_control__by_bucket_and_version() -> None:
    new = make_version("2")
    rule_id = start_rule(new)
    fleet = enrolled(20)
    treated = fleet.in_buckets(SEED, 0, 500_000)
    control = fleet.in_buckets(SEED, 500_000, BUCKETS)
    for device in fleet:
        update(device, new, later(5))
        take(device, device.window(later(10), n=10, latency_ms=20.0), device.labels(later(10), n=4, accuracy=1.0))
    total = gates(rule_id)
    assert total["treated", "errors", "d"] == 10 * len(treated)
    assert total["control", "errors", "d"] == 10 * len(control)
    assert total["treated", "accuracy", "n"] == 4 * len(treated)
    assert total["treated", "slow", "n"] / total["treated", "slow", "d"] > 0.9
    assert {
        row.side for row in selectors.gate_totals(rule_id=rule_id, phase=0) if row.device_id == treated[0].device_id
    } == {"treated"}


def test_credit__treated_device_before_its_offer_or_on_the_old_version__counts_for_no_side() -> None:
    new = make_version("2")
    rule_id = start_rule(new, treated=BUCKETS)
    (device,) = enrolled(1)
    take(device, device.window(later(3), n=10))
    update(device, new, later(5))
    take(device, device.window(later(4), n=10))
    assert gates(rule_id) == Counter()
    take(device, device.window(later(6), n=10))
    assert gates(rule_id)["treated", "errors", "d"] == 10


@pytest.mark.parametrize("spoilt", ["during_update", "clock_trusted", "future", "before_phase"])
def test_credit__measurement_that_cannot_be_compared__is_kept_and_not_credited(spoilt: str) -> None:
    rule_id = start_rule(make_version("2"), treated=0, control=0)
    (device,) = enrolled(1)
    started = {"future": later(3600), "before_phase": later(-1)}.get(spoilt, later(10))
    window = device.window(started, n=10)
    if spoilt == "during_update":
        window = replace(window, during_update=True)
    if spoilt == "clock_trusted":
        window = replace(window, clock_trusted=False)
    take(device, window, at=later(20))
    assert gates(rule_id) == Counter()
    assert selectors.version_summary(MODEL)[0].n == 10
    assert Window.objects.get(device_id=device.device_id).during_update is (spoilt == "during_update")


def test_credit__next_phase__starts_new_totals() -> None:
    rule_id = start_rule(make_version("2"), treated=0, control=0)
    (device,) = enrolled(1)
    take(device, device.window(later(10), n=10))
    assignments.set_rule(rule_id=rule_id, phase=1, now=later(20))
    take(device, device.window(later(15), n=10), device.window(later(25), n=30))
    assert gates(rule_id, 0)["control", "errors", "d"] == 10
    assert gates(rule_id, 1)["control", "errors", "d"] == 30


def test_credit__label_after_a_swap__belongs_to_the_version_that_predicted() -> None:
    new = make_version("2")
    rule_id = start_rule(new, treated=BUCKETS)
    (device,) = enrolled(1)
    update(device, new, later(5))
    batch = device.labels(later(10), n=4, accuracy=1.0)
    device.running = replace(device.running, version="1")
    take(device, batch, at=later(500))
    assert gates(rule_id)["treated", "accuracy", "d"] == 4
    assert selectors.version_overall(MODEL)[0].version == "2"


def test_labels__foreign_or_malformed_prediction__is_dropped_and_counted() -> None:
    device, other = enrolled(2).devices
    batch = other.labels(NOW, n=2, accuracy=1.0)
    own = device.labels(NOW, n=1, accuracy=1.0).labels[0]
    huge = replace(own, prediction=own.prediction.replace("~0~local", f"~{'z' * 99}~local"))
    broken = replace(batch, labels=(*batch.labels, huge, replace(own, prediction="p1~nonsense")))
    keys = take(device, replace(broken, key=device.next_key()))
    assert len(keys) == 1
    assert LabelCredit.objects.count() == 0
    assert [(row.kind, row.code, row.count) for row in selectors.dropped()] == [
        ("label", "foreign_prediction", 2),
        ("label", "malformed_message", 2),
    ]


def test_credit_labels__from_an_operator__are_credited_like_the_devices_own() -> None:
    new = make_version("2")
    rule_id = start_rule(new, treated=BUCKETS)
    (device,) = enrolled(1)
    update(device, new, later(5))
    labels = [replace(item, source="person") for item in device.labels(later(10), n=3, accuracy=0.0).labels]
    assert services.credit_labels(labels=labels, now=later(20)) == 3
    assert services.credit_labels(labels=labels, now=later(21)) == 0
    assert gates(rule_id)["treated", "accuracy", "d"] == 3
    unknown = str(replace(PredictionId.parse(labels[0].prediction), device_id="never-enrolled"))
    assert services.credit_labels(labels=[replace(labels[0], prediction=unknown)], now=later(22)) == 0


# ---------------------------------------------------------------- who is listened to


@pytest.mark.parametrize("state", ["revoked", "quarantined", None])
def test_take_in__not_active__is_dropped_counted_and_not_durable(state: str | None) -> None:
    (device,) = enrolled(1)
    if state is None:
        device.device_id = "never-enrolled"
    else:
        devices.set_state(device_id=device.device_id, state=state, now=NOW)
    assert take(device, device.window(NOW), Presence(online=True), at=later(1)) == ()
    assert Window.objects.count() == 0
    assert [(row.kind, row.code) for row in selectors.dropped()] == [
        ("presence", "device_not_active"),
        ("telemetry", "device_not_active"),
    ]


def test_take_in__report_of_a_known_digest__names_the_weights() -> None:
    new = make_version("2")
    start_rule(new, treated=BUCKETS)
    (device,) = enrolled(1)
    take(device, *update(device, new, later(5)), at=later(6))
    assert device_selectors.weights_in_use() == {new.weights["onnx-fp32-any"]}
    assert device_selectors.device(device.device_id).last_seen_at == later(6)
    assert [(row.version, row.updates, row.bytes_received) for row in savings(MODEL)] == [("2", 1, 1_000)]


def test_take_in__ends_of_updates__traffic_by_variant_and_codec_once_each() -> None:
    new = make_version("2")
    start_rule(new, treated=BUCKETS)
    fleet = enrolled(4)
    for number, device in enumerate(fleet):
        *_, last = update(device, new, later(5))
        ended: dict[str, Any] = {"transport": Transport.DELTA, "codec": "tensor1", "bytes_received": 100}
        if number == 1:
            ended["fallbacks"] = ("bsdiff4", "bsdiff4", "zstd")
        if number == 2:
            ended = {"transport": Transport.FULL, "codec": "", "fallbacks": ("tensor1",), "bytes_received": 1_100}
        if number == 3:
            ended |= {"state": UpdateState.IDLE, "failure": FailureCode.DOWNLOAD}
        message = replace(last, bytes_total=1_000, **ended)
        for _ in range(2):
            take(device, message, at=later(6))
    found = {(row.transport, row.codec): row for row in savings(MODEL)}
    assert {key: (row.updates, row.failed, row.fallbacks) for key, row in found.items()} == {
        ("delta", "tensor1"): (2, 1, 1),
        ("delta", "bsdiff4"): (0, 0, 1),
        ("delta", "other"): (0, 0, 1),
        ("full", ""): (1, 0, 0),
    }
    assert {row.bytes_saved for row in found.values()} == {1_800, 0, -100}
    row = found["delta", "tensor1"]
    assert (row.version, row.variant, row.format) == ("2", "onnx-fp32-any", "onnx")
    assert savings() == savings(MODEL)
    assert savings("vision.other") == ()


def test_take_in__update_to_what_nobody_released__is_nobody_s_traffic() -> None:
    new = make_version("2")
    start_rule(new, treated=BUCKETS)
    (device,) = enrolled(1)
    *_, last = update(device, new, later(5))
    take(device, replace(last, digest="e" * 64), at=later(6))
    assert savings() == ()


def test_take_in__presence__is_stored_and_is_no_message_to_forget() -> None:
    (device,) = enrolled(1)
    assert take(device, Presence(online=True, client_version="2.0"), at=later(3)) == ()
    found = device_selectors.device(device.device_id)
    assert (found.online, found.client_version, found.last_seen_at) == (True, "2.0", later(3))


def test_store__custom_metrics_and_extremes__are_kept() -> None:
    (device,) = enrolled(1)
    window = replace(
        device.window(NOW, n=3),
        metrics={"rejects": MetricTotals(3, -2.5, 9.0)},
        started_at=2**53 - 1,
        rss_bytes=2**53 - 1,
    )
    assert isinstance(window, TelemetryWindow)
    take(device, window, at=later(1))
    found = Window.objects.get(device_id=device.device_id)
    assert found.metrics == {"rejects": {"n": 3, "total": -2.5, "total_squared": 9.0}}
    assert found.started_at == later(1)


def test_take_in__one_device_claims_as_much_as_it_may__others_are_still_counted() -> None:
    liar, honest = enrolled(2)
    most = 10**9
    claim = replace(liar.window(NOW, n=1), n=most, latency=LatencySketch({10: most}))
    take(liar, *(replace(claim, key=liar.next_key()) for _ in range(3)), at=later(1))
    row = VersionTotal.objects.get()
    row.latency = LatencySketch({10: 2**53 - 1}).encode()
    row.save()
    take(liar, replace(claim, key=liar.next_key()), at=later(2))
    assert take(honest, honest.window(NOW, n=5), at=later(3))
    (total,) = selectors.version_overall(MODEL)
    assert total.n == 4 * most + 5


def test_window__more_inferences_than_any_device_makes__refused() -> None:
    (device,) = enrolled(1)
    window = device.window(NOW, n=1)
    assert isinstance(window, TelemetryWindow)
    with pytest.raises(MalformedMessageError):
        TelemetryWindow.parse(replace(window, n=10**9 + 1).encode())


def test_take_in__larger_batch__costs_hardly_more_queries() -> None:
    start_rule(make_version("2"), treated=0, control=0)
    fleet = enrolled(60)
    counts = []
    for group in (fleet.devices[:10], fleet.devices[10:]):
        batch = [Incoming(device.device_id, device.window(later(5), n=10)) for device in group]
        with CaptureQueriesContext(connection) as captured:
            services.take_in(messages=batch, now=later(6))
        counts.append(len(captured))
    assert counts[1] <= counts[0] + 2
