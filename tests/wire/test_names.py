"""Names from outside: what is taken, and that nothing else ever reaches a path, a topic or a query."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.wire import names, topics
from device_client.wire.errors import MalformedNameError, WireError
from device_client.wire.names import ManifestPath, VariantName
from device_client.wire.topics import Down, Up, UpTopic

GOOD: tuple[tuple[Callable[[object], Any], str], ...] = (
    (names.parse_device_id, "cam-01"),
    (names.parse_device_id, "a" * 63),
    (names.parse_namespace, "vision"),
    (names.parse_model, "vision.digits-2"),
    (names.parse_version, "2026.11+rc.1"),
    (names.parse_file_name, "model.onnx"),
    (names.parse_sha256, "0" * 64),
)
BAD: tuple[tuple[Callable[[object], Any], object], ...] = (
    (names.parse_device_id, "_ingest"),
    (names.parse_device_id, "a"),
    (names.parse_device_id, "a" * 64),
    (names.parse_device_id, "cam/01"),
    (names.parse_device_id, "cam-#"),
    (names.parse_device_id, "cam-+"),
    (names.parse_device_id, "cam-01\n"),
    (names.parse_device_id, None),
    (names.parse_model, "vision"),
    (names.parse_model, "vision.digits.more"),
    (names.parse_model, "Vision.digits"),
    (names.parse_model, "vision.../x"),
    (names.parse_version, ""),
    (names.parse_version, ".."),
    (names.parse_version, "1/2"),
    (names.parse_file_name, "../model.onnx"),
    (names.parse_file_name, ".hidden"),
    (names.parse_file_name, "a/b"),
    (names.parse_file_name, "x" * 101),
    (names.parse_sha256, "A" * 64),
    (names.parse_sha256, "0" * 63),
)


@pytest.mark.parametrize(("parse", "value"), GOOD, ids=lambda item: getattr(item, "__name__", repr(item)[:20]))
def test_name__of_the_agreed_form__returned(parse: Callable[[object], Any], value: str) -> None:
    assert parse(value) == value


@pytest.mark.parametrize(("parse", "value"), BAD, ids=lambda item: getattr(item, "__name__", repr(item)[:20]))
def test_name__of_any_other_form__refused(parse: Callable[[object], Any], value: object) -> None:
    with pytest.raises(MalformedNameError):
        parse(value)


def test_manifest_path__written_and_read__same() -> None:
    path = ManifestPath("vision.digits", "2", VariantName("onnx", "int8", "any"))
    assert str(path) == "models/vision.digits/2/onnx-int8-any.json"
    assert ManifestPath.parse(str(path)) == path


@pytest.mark.parametrize(
    "path",
    [
        "models/vision.digits/2/onnx-int8.json",
        "models/vision.digits/2/onnx-int8-any.json/x",
        "models/vision.digits/../onnx-int8-any.json",
        "/models/vision.digits/2/onnx-int8-any.json",
        "models/vision.digits/2/onnx-int8-any.txt",
        "deltas/vision.digits/2/onnx-int8-any.json",
        None,
    ],
)
def test_manifest_path__of_any_other_shape__refused(path: object) -> None:
    with pytest.raises(MalformedNameError):
        ManifestPath.parse(path)


@given(st.text(max_size=60))
def test_names__any_text__refused_or_safe(text: str) -> None:
    for parse in (names.parse_device_id, names.parse_model, names.parse_version, names.parse_file_name):
        try:
            taken = parse(text)
        except WireError:
            continue
        assert not set(taken) & set("/\\#\0 \n")
        assert taken not in {".", ".."}
        assert not taken.startswith(("-", "."))


def test_topics__of_one_device__as_the_acl_has_them() -> None:
    assert topics.up("cam-01", Up.STATE) == "fleet/v1/d/cam-01/up/state"
    assert topics.down("cam-01", Down.BUNDLE) == "fleet/v1/d/cam-01/down/bundle"
    assert topics.plan("0123456789abcdef") == "fleet/v1/plan/0123456789abcdef"
    assert topics.parse_up("fleet/v1/d/cam-01/up/state") == UpTopic("cam-01", Up.STATE)


@pytest.mark.parametrize(
    "topic",
    [
        "fleet/v1/d/cam-01/down/bundle",
        "fleet/v1/d/cam-01/up/other",
        "fleet/v2/d/cam-01/up/state",
        "fleet/v1/d/_ingest/up/state",
        "fleet/v1/d/+/up/state",
        "fleet/v1/d/cam-01/up/state/more",
        "",
    ],
)
def test_parse_up__any_other_topic__refused(topic: str) -> None:
    with pytest.raises(MalformedNameError):
        topics.parse_up(topic)


@pytest.mark.parametrize("key", ["", "../x", "ABCDEF01", "0" * 65, "0123456#"])
def test_plan_topic__key_is_not_opaque_hexadecimal__refused(key: str) -> None:
    with pytest.raises(MalformedNameError):
        topics.plan(key)
