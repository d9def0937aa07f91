"""What an installation consists of: its processes, their environment, and the note that says where they are."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from fleet.entrypoints.up.addresses import LOOPBACK, Addresses, is_loopback
from fleet.entrypoints.up.mosquitto import Mosquitto
from fleet.entrypoints.up.mosquitto_config import BrokerFiles, Listener, render_config
from fleet.entrypoints.up.supervisor import Process

BROKER: Final = "broker"
WEB: Final = "web"
WORKERS: Final = ("ingest", "director", "conductor", "publisher", "worker")
# A slow download holds its thread until its last byte, so there are more threads than requests in progress. They are
# made when they are needed.
_WEB_THREADS: Final = 64
# Shorter than the supervisor's own patience: granian's parent waits for a worker that missed its signal.
_WEB_STOP_S: Final = 4
_LAST_TOLD: Final = "addresses.json"
_PORTS: Final = 65_536


@dataclass(frozen=True)
class Installation:
    """An installation on this machine: its checkout, its home, where it listens."""

    root: Path
    home: Path
    addresses: Addresses

    @property
    def broker_directory(self) -> Path:
        """Everything of the embedded broker except its keys."""
        return self.home / "broker"

    @property
    def broker_access_files(self) -> tuple[Path, Path]:
        """The files that the broker rereads when a device is shut out."""
        return self.broker_directory / "access.acl", self.broker_directory / "devices.crl"

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """What every process is told, on top of what the supervisor itself was told."""
        return {
            **inherited,
            "PYTHONUNBUFFERED": "1",
            "MODELFLEET_HOME": str(self.home),
            "MODELFLEET_BROKER": self.addresses.internal_broker,
            "MODELFLEET_DEVICE_BROKER": self.addresses.device_broker,
            "MODELFLEET_PUBLIC_URL": self.addresses.public_url,
            "MODELFLEET_DEVICE_URL": self.addresses.device_url,
        }

    def write_broker_config(self, *, run_as_root: bool) -> Path:
        """Write the broker's configuration and make its directories; raises OSError."""
        secrets = self.home / "secrets"
        persistence = self.broker_directory / "store"
        persistence.mkdir(mode=0o700, parents=True, exist_ok=True)
        access_list, revocation_list = self.broker_access_files
        text = render_config(
            devices=Listener(
                port=self.addresses.device_port,
                bind_address=LOOPBACK if is_loopback(self.addresses.device_host) else None,
                authority=secrets / "device_ca.crt",
                certificate=secrets / "broker.crt",
                key=secrets / "broker.key",
            ),
            internal=Listener(
                port=self.addresses.internal_port,
                bind_address=LOOPBACK,
                authority=secrets / "internal_ca.crt",
                certificate=secrets / "internal/broker.crt",
                key=secrets / "internal/broker.key",
            ),
            files=BrokerFiles(access_list, revocation_list, persistence),
            run_as_root=run_as_root,
        )
        path = self.broker_directory / "mosquitto.conf"
        path.write_text(text, encoding="utf-8")
        return path

    def broker(self, mosquitto: Mosquitto, config: Path, environment: Mapping[str, str]) -> Process:
        """The embedded broker."""
        command = (str(mosquitto.executable), "-c", str(config))
        return Process(BROKER, command, {**environment, **mosquitto.environment, "TZ": "UTC"}, self.broker_directory)

    def web(self, environment: Mapping[str, str]) -> Process:
        """The web server of people and pipelines; of devices too, unless they have their own."""
        command = (*_granian(LOOPBACK, self.addresses.web_port), "fleet.config.wsgi:application")
        return Process(WEB, command, {**environment, "MODELFLEET_PROCESS": WEB}, self.root)

    def device_web(self, environment: Mapping[str, str]) -> Process | None:
        """The web server that is open to the network: it serves devices only, over TLS."""
        port = self.addresses.device_web_port
        if port is None:
            return None
        secrets = self.home / "secrets"
        command = (
            *_granian("::" if ":" in self.addresses.device_host else "0.0.0.0", port),  # noqa: S104 - that is its job
            "--ssl-certificate",
            str(secrets / "broker.crt"),
            "--ssl-keyfile",
            str(secrets / "broker.key"),
            "--ssl-protocol-min",
            "tls1.2",
            "fleet.config.wsgi:application",
        )
        told = {"MODELFLEET_PROCESS": "deviceweb", "MODELFLEET_DEVICES_ONLY": "1"}
        return Process("deviceweb", command, {**environment, **told}, self.root)

    def worker(self, name: str, environment: Mapping[str, str]) -> Process:
        """One of the processes that are management commands."""
        command = (sys.executable, str(self.root / "manage.py"), name)
        return Process(name, command, {**environment, "MODELFLEET_PROCESS": name}, self.root)

    @property
    def note(self) -> Path:
        """The file that says where a running installation is; it exists only while everything runs."""
        return self.home / "up.json"

    def write_note(self, pids: Mapping[str, int], started_at: datetime) -> None:
        """Write the note so that a reader finds all of it or none; raises OSError."""
        content = {
            "web_url": self.addresses.public_url,
            "device_url": self.addresses.device_url,
            "device_broker": self.addresses.device_broker,
            "internal_broker": self.addresses.internal_broker,
            "pids": {"up": os.getpid(), **pids},
            "started_at": started_at.isoformat(),
        }
        _write_json(self.note, content)

    def remember_addresses(self) -> None:
        """Keep what others are told from now on, for the next start; raises OSError."""
        LastTold.of(self.addresses).write(self.home)


@dataclass(frozen=True)
class LastTold:
    """The ports of the last run and what devices were told then: enrolled devices look for the server there."""

    ports: Mapping[str, int]
    """By the purpose of `addresses.WantedPort`."""
    device_url: str = ""
    device_broker: str = ""

    @classmethod
    def of(cls, addresses: Addresses) -> "LastTold":
        """What an installation at these addresses tells."""
        return cls(dict(addresses.ports()), addresses.device_url, addresses.device_broker)

    @classmethod
    def read(cls, home: Path) -> "LastTold":
        """What was kept; nothing where there is nothing or it cannot be read: ports are then chosen afresh."""
        try:
            content = json.loads((home / _LAST_TOLD).read_text(encoding="utf-8"))
            ports = {str(name): int(port) for name, port in content["ports"].items() if 0 < int(port) < _PORTS}
            return cls(ports, str(content["device_url"]), str(content["device_broker"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return cls({})

    def write(self, home: Path) -> None:
        """Keep it; raises OSError."""
        _write_json(home / _LAST_TOLD, asdict(self))

    def changes(self, addresses: Addresses) -> list[str]:
        """What has changed since, as lines for the operator."""
        lines = []
        if self.device_url and self.device_url != addresses.device_url:
            lines.append(
                f"warning: devices were told that the server is at {self.device_url}, and it is at {addresses.device_url} "
                "now: devices that joined before do not find it until it is back there"
            )
        if self.device_broker and self.device_broker != addresses.device_broker:
            lines.append(
                f"warning: devices were told the broker {self.device_broker}, and it is {addresses.device_broker} now: "
                "devices that joined before ask the server for it after some attempts in vain"
            )
        return lines


def _write_json(path: Path, content: object) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _granian(host: str, port: int) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "granian", "--interface", "wsgi"),
        *("--host", host, "--port", str(port)),
        *("--workers", "1", "--blocking-threads", str(_WEB_THREADS), "--no-ws"),
        *("--workers-kill-timeout", str(_WEB_STOP_S)),
    )
