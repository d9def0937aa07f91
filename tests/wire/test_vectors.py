"""Frozen vectors of every released format: what version 1 meant on the day it was released, it means for ever.

`tests/vectors/*.json` are shared by every implementation of the contract and are never edited: a new format version
gets a file of its own. Files named `*_broken.json` hold named inputs that must be refused with the stated code.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_client.wire import bucketing, delta, messages
from device_client.wire.bundles import Manifest
from device_client.wire.delta import Codec
from device_client.wire.director import Assigned, Binding, DeltaOffer
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.messages import Capabilities
from device_client.wire.predictions import PredictionId
from device_client.wire.sketch import LatencySketch

VECTORS = Path(__file__).parents[1] / "vectors"

MESSAGES: Mapping[str, Callable[[bytes], Any]] = {
    "check": messages.Check.parse,
    "bundle": messages.BundleMessage.parse,
    "plan": messages.PlanNotice.parse,
    "ack": messages.Ack.parse,
    "state": messages.StateReport.parse,
    "telemetry": messages.TelemetryWindow.parse,
    "label": messages.LabelBatch.parse,
    "presence": messages.Presence.parse,
    "manifest": Manifest.parse,
}


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", load("bucketing_v1.json"), ids=lambda case: f"{case['seed']}:{case['device_id']}")
def test_bucketing__vector__same_bucket(case: dict[str, Any]) -> None:
    assert bucketing.bucket(case["seed"], case["device_id"]) == case["bucket"]


@pytest.mark.parametrize("case", load("sketch_v1.json"), ids=lambda case: case["name"])
def test_sketch__vector__same_bytes_and_figures(case: dict[str, Any]) -> None:
    sketch = LatencySketch()
    for value, count in case["values"]:
        sketch.add(value, count)
    encoded = base64.b64decode(case["encoded"])
    assert sketch.encode() == encoded
    assert LatencySketch.decode(encoded) == sketch
    assert sketch.total == case["total"]
    assert sketch.above(case["threshold"]) == case["above"]
    assert sketch.quantile(0.95) == pytest.approx(case["p95"])


@pytest.mark.parametrize("case", load("messages_v1.json"), ids=lambda case: case["name"])
def test_message__vector__parsed_and_written_byte_for_byte(case: dict[str, Any]) -> None:
    payload = case["payload"].encode()
    assert MESSAGES[case["kind"]](payload).encode() == payload


@pytest.mark.parametrize("case", load("messages_v1_broken.json"), ids=lambda case: case["name"])
def test_message__broken_vector__refused_with_its_code(case: dict[str, Any]) -> None:
    payload = case["payload"].encode() if "payload" in case else base64.b64decode(case["base64"])
    with pytest.raises(WireError) as refusal:
        MESSAGES[case["kind"]](payload * case.get("times", 1))
    assert refusal.value.code == case["code"]


@pytest.mark.parametrize("case", load("director_v1.json"), ids=lambda case: case["name"])
def test_director_custom__vector__parsed_and_written_back(case: dict[str, Any]) -> None:
    parse: Callable[[object], Any] = {
        "binding": Binding.parse,
        "assigned": Assigned.parse,
        "delta": DeltaOffer.parse,
    }[case["kind"]]
    assert parse(case["custom"]).encode() == case["custom"]


@pytest.mark.parametrize("case", load("predictions_v1.json"), ids=lambda case: case["text"][:40])
def test_prediction_id__vector__same_parts(case: dict[str, Any]) -> None:
    parsed = PredictionId(**case["parts"])
    assert str(parsed) == case["text"]
    assert PredictionId.parse(case["text"]) == parsed


@pytest.mark.parametrize("case", load("capabilities_v1.json"), ids=lambda case: case["name"])
def test_capabilities__vector__same_digest(case: dict[str, Any]) -> None:
    capabilities = Capabilities.parse(Fields.of(case["capabilities"], "capabilities"))
    assert capabilities.encode() == case["capabilities"]
    assert capabilities.digest == case["digest"]


@pytest.mark.parametrize("case", load("bsdiff4_v1.json"), ids=lambda case: case["name"])
def test_patch__vector__applies_or_is_refused(case: dict[str, Any]) -> None:
    old, patch = base64.b64decode(case["old"]), base64.b64decode(case["patch"])
    if "new" in case:
        new = base64.b64decode(case["new"])
        assert delta.apply(Codec.BSDIFF4, old, patch, expected_bytes=len(new)) == new
    else:
        with pytest.raises(WireError) as refusal:
            delta.apply(Codec.BSDIFF4, old, patch, expected_bytes=case["expected_bytes"])
        assert refusal.value.code == case["code"]


def test_prediction_id__answer_too_long_to_carry__left_out() -> None:
    told = PredictionId("cam-01", "x.y", "1", 1, "local", 1, "abcdef", "ü" * 30)
    assert PredictionId.parse(str(told)).answer is None


@pytest.mark.parametrize(
    "text",
    [
        "", "p1", "p2~cam-01~x.y~1~1~local~1~abcdef~", "p1~CAM~x.y~1~1~local~1~abcdef~", "p1~cam-01~x.y~1~-1~local~1~abcdef~",
        "p1~cam-01~x.y~1~1~LOCAL~1~abcdef~", "p1~cam-01~x.y~1~1~local~1~xyz~", "p1~cam-01~x.y~1~1~local~1~abcdef~a~b",
        "p1~" + "a" * 400, None,
    ],
)  # fmt: skip
def test_prediction_id__of_any_other_form__refused(text: object) -> None:
    with pytest.raises(WireError):
        PredictionId.parse(text)


def test_telemetry__crashes_and_agreement__travel_and_are_left_out_where_there_are_none() -> None:
    payload = next(case["payload"] for case in load("messages_v1.json") if case["kind"] == "telemetry")
    window = messages.TelemetryWindow.parse(payload.encode())
    assert b"crashes" not in window.encode()
    more = replace(window, crashes=1, compared=5, agreed=4)
    assert messages.TelemetryWindow.parse(more.encode()) == more
    with pytest.raises(WireError, match="agreed <= compared"):
        messages.TelemetryWindow.parse(replace(more, agreed=6).encode())
