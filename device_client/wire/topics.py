"""MQTT topics, version 1. The server takes a device's identity from the topic, which the broker has authorised."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from device_client.wire.errors import MalformedNameError
from device_client.wire.names import HEX_ID, parse_device_id

ROOT: Final = "fleet/v1"


class Down(str, Enum):
    """What the server sends to one device."""

    BUNDLE = "bundle"
    POKE = "poke"
    ACK = "ack"


class Up(str, Enum):
    """What one device sends to the server."""

    CHECK = "check"
    STATE = "state"
    TELEMETRY = "telemetry"
    LABEL = "label"
    SAMPLE = "sample"
    PRESENCE = "presence"


def plan(model_key: str) -> str:
    """The retained plan notice of a model; `model_key` is opaque and handed out in a device's bundle."""
    if HEX_ID.fullmatch(model_key) is None:
        raise MalformedNameError(f"expected a hexadecimal model key, got {model_key!r:.80}")
    return f"{ROOT}/plan/{model_key}"


def down(device_id: str, kind: Down) -> str:
    """A topic that only this device can read."""
    return f"{ROOT}/d/{parse_device_id(device_id)}/down/{kind.value}"


def up(device_id: str, kind: Up) -> str:
    """A topic that only this device can write."""
    return f"{ROOT}/d/{parse_device_id(device_id)}/up/{kind.value}"


def every_up(kind: Up) -> str:
    """The server's subscription filter for one kind of message from all devices."""
    return f"{ROOT}/d/+/up/{kind.value}"


@dataclass(frozen=True)
class UpTopic:
    """A parsed upward topic."""

    device_id: str
    kind: Up


def parse_up(topic: str) -> UpTopic:
    """Parse an upward topic; raise `MalformedNameError` for any other."""
    parts = topic.split("/")
    if len(parts) == 6 and parts[:3] == ["fleet", "v1", "d"] and parts[4] == "up":  # noqa: PLR2004
        try:
            return UpTopic(parse_device_id(parts[3]), Up(parts[5]))
        except ValueError as error:
            raise MalformedNameError(f"expected an up topic, got {topic!r:.120}") from error
    raise MalformedNameError(f"expected {ROOT}/d/<device id>/up/<kind>, got {topic!r:.120}")
