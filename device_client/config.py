"""The state directory and `device.json`: who this device is, whom it talks to, what it may run. Parsed once, typed.

<state>/device.json            this file, written by `enroll`, edited by whoever runs the device
<state>/identity/              key, certificate, pinned anchors
<state>/trust/                 verified metadata of both repositories
<state>/models/                slots
<state>/client.sqlite3         journal and outbox
<state>/lock                   held by the one running agent
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from device_client.core.errors import ConfigError
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields, decode_object
from device_client.wire.limits import MAX_ATTRIBUTES, MAX_MODELS_PER_DEVICE
from device_client.wire.names import ANY_HARDWARE, VARIANT_PART, parse_device_id, parse_model

CONFIG_VERSION: Final = 1
MAX_CONFIG_BYTES: Final = 65_536
STATE_VARIABLE: Final = "MODELFLEET_DEVICE_STATE"
DEFAULT_STATE: Final = "/var/lib/modelfleet"
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)[bB]?(?:/s)?")
_RATE_UNITS: Final = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


@dataclass(frozen=True)
class StatePaths:
    """Where things lie in a state directory."""

    root: Path

    @property
    def config(self) -> Path:
        """`device.json`."""
        return self.root / "device.json"

    @property
    def identity(self) -> Path:
        """Key, certificate, anchors."""
        return self.root / "identity"

    @property
    def trust(self) -> Path:
        """Verified metadata."""
        return self.root / "trust"

    @property
    def models(self) -> Path:
        """Slots."""
        return self.root / "models"

    @property
    def database(self) -> Path:
        """Journal and outbox."""
        return self.root / "client.sqlite3"

    @property
    def lock(self) -> Path:
        """Held by the one running agent."""
        return self.root / "lock"


@dataclass(frozen=True)
class Config:
    """One device's configuration. `bandwidth_bytes_per_s` zero means unlimited; `precisions` empty means any.

    `in_place` allows updates that use up the installed file where there is no room for two: see docs/devices.md first.
    """

    device_id: str
    server_url: str
    broker_host: str
    broker_port: int
    image_url: str
    models: tuple[str, ...] = ()
    hardware_class: str = ANY_HARDWARE
    precisions: tuple[str, ...] = ()
    bandwidth_bytes_per_s: int = 0
    intra_op_threads: int = 1
    in_place: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The file's bytes, for people to read."""
        values = {
            "v": CONFIG_VERSION,
            "device_id": self.device_id,
            "server_url": self.server_url,
            "broker_host": self.broker_host,
            "broker_port": self.broker_port,
            "image_url": self.image_url,
            "models": list(self.models),
            "hardware_class": self.hardware_class,
            "precisions": list(self.precisions),
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "intra_op_threads": self.intra_op_threads,
            "in_place": self.in_place,
            "attributes": dict(self.attributes),
        }
        return (json.dumps(values, indent=2) + "\n").encode()

    @classmethod
    def parse(cls, payload: bytes) -> "Config":
        """Read `device.json`; raises `ConfigError` that names the field."""
        try:
            fields = decode_object(payload, max_bytes=MAX_CONFIG_BYTES)
            fields.require_version(CONFIG_VERSION)
            return cls(
                device_id=fields.name("device_id", parse_device_id),
                server_url=_url(fields, "server_url"),
                broker_host=fields.text("broker_host"),
                broker_port=fields.integer("broker_port", minimum=1, maximum=65_535),
                image_url=_url(fields, "image_url"),
                models=tuple(parse_model(name) for name in fields.texts("models", max_items=MAX_MODELS_PER_DEVICE)),
                hardware_class=fields.text("hardware_class", default=ANY_HARDWARE),
                precisions=fields.texts("precisions", max_chars=32),
                bandwidth_bytes_per_s=fields.integer("bandwidth_bytes_per_s", default=0),
                intra_op_threads=fields.integer("intra_op_threads", minimum=1, maximum=1_024, default=1),
                in_place=fields.flag("in_place", default=False),
                attributes=fields.pairs("attributes", max_items=MAX_ATTRIBUTES, max_chars=128),
            )
        except WireError as error:
            raise ConfigError(f"device.json: {error}") from error

    def with_choices(
        self,
        *,
        models: tuple[str, ...] = (),
        hardware_class: str | None = None,
        precisions: tuple[str, ...] = (),
        bandwidth: str | None = None,
        threads: int | None = None,
        in_place: bool | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> "Config":
        """This configuration with what a person chose on the command line; raises `ConfigError`."""
        try:
            named = tuple(parse_model(name) for name in models)
        except WireError as error:
            raise ConfigError(str(error)) from error
        for part in (*precisions, *([hardware_class] if hardware_class and hardware_class != ANY_HARDWARE else [])):
            if not part or len(part) > 64:  # noqa: PLR2004 - what the wire takes
                raise ConfigError(f"expected a name of at most 64 characters, got {part!r}")
        for precision in precisions:
            if VARIANT_PART.fullmatch(precision) is None:
                raise ConfigError(f"expected a precision such as int8, got {precision!r}")
        return replace(
            self,
            models=named or self.models,
            hardware_class=hardware_class or self.hardware_class,
            precisions=precisions or self.precisions,
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s if bandwidth is None else parse_rate(bandwidth),
            intra_op_threads=self.intra_op_threads if threads is None else threads,
            in_place=self.in_place if in_place is None else in_place,
            attributes=self.attributes if attributes is None else {**self.attributes, **attributes},
        )


def _url(fields: Fields, key: str) -> str:
    url = fields.text(key)
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{key}: expected an http or https address, got {url[:80]!r}")
    return url.rstrip("/")


def parse_rate(text: str) -> int:
    """`2MB`, `300kB/s`, `0` (unlimited) as bytes per second; raises `ConfigError`."""
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"expected a rate such as 300kB or 2MB, got {text!r}")
    return int(float(found[1]) * _RATE_UNITS[found[2].lower()])


def state_paths(given: str | os.PathLike[str] | None = None) -> StatePaths:
    """The state directory: as given, else from the environment, else the system's."""
    return StatePaths(Path(given or os.environ.get(STATE_VARIABLE) or DEFAULT_STATE))


def load_config(paths: StatePaths) -> Config:
    """The device's configuration; raises `ConfigError`."""
    try:
        return Config.parse(paths.config.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"expected an enrolled device in {paths.root}, got {error.strerror or error}: "
            f"run `modelfleet-device enroll SERVER_URL --token T --pin P --state {paths.root}` first"
        ) from error
