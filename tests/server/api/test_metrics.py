"""Prometheus gets figures, and only if it may."""

from collections.abc import Callable

from django.test import Client

from fleet.apps.telemetry import services as telemetry
from tests.server.api.conftest import Caller
from tests.server.catalogue import NOW
from tests.server.pipeline import Pipeline


def test_metrics__without_credentials__401(caller: Callable[..., Caller]) -> None:
    answer = Client().get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


def test_metrics__token_of_one_namespace__403(caller: Callable[..., Caller]) -> None:
    assert Client().get("/metrics", headers=caller("read:vision").headers).status_code == 403


def test_metrics__with_a_read_token__figures(released: Pipeline, caller: Callable[..., Caller]) -> None:
    telemetry.count_dropped(kind="check", code="malformed_message", device_id="cam-0001", detail="x", now=NOW)
    headers = {**caller("read").headers, "Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    answer = Client().get("/metrics", headers=headers)
    assert answer.status_code == 200
    text = answer.content.decode()
    assert answer["Content-Type"].startswith("text/plain")
    assert 'modelfleet_rollouts{state="running"} 0.0' in text
    assert 'modelfleet_dropped_messages_total{code="malformed_message",kind="check"} 1.0' in text
    assert 'modelfleet_role_expires_timestamp_seconds{repository="image",role="vision.digits"}' in text
