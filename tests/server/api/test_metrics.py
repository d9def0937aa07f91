"""Prometheus gets figures, and only if it may."""

from collections.abc import Callable

from django.test import Client

from device_client.wire.messages import MessageKey, StateReport
from device_client.wire.states import Transport, UpdateState
from fleet.apps.devices import services as devices
from fleet.apps.registry import selectors as registry
from fleet.apps.telemetry import services as telemetry
from fleet.apps.telemetry.records import Incoming
from tests.server.api.conftest import Caller
from tests.server.catalogue import NOW
from tests.server.pipeline import MODEL, Pipeline


def test_metrics__without_credentials__401(caller: Callable[..., Caller]) -> None:
    answer = Client().get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


def test_metrics__token_of_one_namespace__403(caller: Callable[..., Caller]) -> None:
    assert Client().get("/metrics", headers=caller("read:vision").headers).status_code == 403


def test_metrics__with_a_read_token__figures(released: Pipeline, caller: Callable[..., Caller]) -> None:
    version = registry.get_version(MODEL, "1")
    ended = StateReport(
        key=MessageKey("a" * 16, 1),
        at=int(NOW.timestamp()),
        model=MODEL,
        version="1",
        digest=version.variants[0].digest,
        rollout="",
        revision=1,
        state=UpdateState.COMMITTED,
        transport=Transport.DELTA,
        codec="tensor1",
        fallbacks=("bsdiff4",),
        bytes_received=100,
        bytes_total=1_000,
    )
    devices.enrol(device_id="cam-0001", hardware_class="edge", attributes={}, now=NOW)
    telemetry.take_in(messages=[Incoming("cam-0001", ended)], now=NOW)
    telemetry.count_dropped(kind="check", code="malformed_message", device_id="cam-0001", detail="x", now=NOW)
    headers = {**caller("read").headers, "Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    answer = Client().get("/metrics", headers=headers)
    assert answer.status_code == 200
    text = answer.content.decode()
    assert answer["Content-Type"].startswith("text/plain")
    assert 'modelfleet_rollouts{state="running"} 0.0' in text
    assert 'modelfleet_dropped_messages_total{code="malformed_message",kind="check"} 1.0' in text
    assert 'modelfleet_role_expires_timestamp_seconds{repository="image",role="vision.digits"}' in text
    names = 'codec="tensor1",format="onnx",model="vision.digits",transport="delta"'
    for family, value in (("updates", 1), ("update_bytes_received", 100), ("update_bytes_full", 1_000)):
        assert f"modelfleet_{family}_total{{{names}}} {float(value)}" in text
    assert f"modelfleet_patch_fallbacks_total{{{names.replace('tensor1', 'bsdiff4')}}} 1.0" in text
    assert 'modelfleet_update_bytes_saved{model="vision.digits"} 900.0' in text
    answer = caller("read").get(f"/models/{MODEL}/savings")
    assert {(row["codec"], row["format"], row["updates"], row["fallbacks"]) for row in answer["transfers"]} == {
        ("tensor1", "onnx", 1, 0),
        ("bsdiff4", "onnx", 0, 1),
    }
