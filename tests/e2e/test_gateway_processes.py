"""The gateway's processes as they run: real mosquitto with mutual TLS, real commands, SIGKILL and SIGTERM."""

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from device_client.wire.messages import Ack, BundleMessage, PlanNotice
from device_client.wire.topics import Down, Up, down, plan, up
from fleet.ports.broker import Broker, Delivery, Message
from tests.embedded_broker import ROOT, EmbeddedBroker, running_broker, wait_for
from tests.fakes.fleet_simulator import FleetSimulator, SimulatedDevice
from tests.server.catalogue import MODEL

WITHIN_S = 60.0


class Installation:
    """A home with a broker, a database, and the gateway's processes."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.broker = broker
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODELFLEET_")}
        self._environment = {
            **inherited,
            "MODELFLEET_HOME": str(broker.home),
            "MODELFLEET_BROKER": f"127.0.0.1:{broker.internal_port}",
            "PYTHONUNBUFFERED": "1",
        }

    def manage(self, *arguments: str) -> str:
        """Run a command to its end; returns what it printed."""
        done = subprocess.run(
            self._command(*arguments), env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, expression: str) -> dict[str, Any]:
        """Call a function of `gateway_seed` inside the installation; returns the JSON that it printed."""
        printed = self.manage(
            "shell", "-v", "0", "-c", f"from tests.e2e import gateway_seed; gateway_seed.{expression}"
        )
        found: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
        return found

    def start(self, name: str, *arguments: str) -> None:
        """Start a process of the gateway."""
        with (self.broker.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self._command(*arguments or (name,)), env=self._environment, stdout=log, stderr=log
            )

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop a process; returns its exit code."""
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(60)

    def log(self, name: str) -> str:
        """What a process has logged."""
        return (self.broker.home / f"{name}.log").read_text()

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), *arguments]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A prepared installation whose processes are stopped at the end."""
    home: Path = tmp_path_factory.mktemp("gateway")
    with running_broker(home) as broker:
        installed = Installation(broker)
        installed.manage("prepare")
        try:
            yield installed
        finally:
            for name in list(installed.running):
                installed.end(name, signal.SIGKILL)


class ConnectedDevice:
    """A simulated device on the real broker."""

    def __init__(self, broker: EmbeddedBroker, device: SimulatedDevice, plan_key: str) -> None:
        self.device = device
        self.inbox: queue.Queue[Delivery] = queue.Queue()
        self.told: set[int] = set()
        self.bundles: list[BundleMessage] = []
        self.notices: list[PlanNotice] = []
        self.link: Broker = broker.device_client(device.device_id)
        self.link.subscribe([down(device.device_id, kind) for kind in Down] + [plan(plan_key)], self.inbox.put)
        self.link.start()
        assert self.link.wait_ready(10)

    def send(self, kind: Up, payload: bytes) -> None:
        """Publish upwards."""
        self.link.publish(Message(up(self.device.device_id, kind), payload))

    def listen(self) -> None:
        """Sort what has arrived."""
        while not self.inbox.empty():
            delivery = self.inbox.get()
            delivery.acknowledge()
            match delivery.topic.rsplit("/", 2)[-2:]:
                case [_, "ack"]:
                    self.told |= set(Ack.parse(delivery.payload).seqs)
                case [_, "bundle"]:
                    self.bundles.append(BundleMessage.parse(delivery.payload))
                case ["plan", _]:
                    self.notices.append(PlanNotice.parse(delivery.payload))


def test_gateway__processes_killed_and_restarted__lose_nothing_and_count_nothing_twice(
    installation: Installation,
) -> None:
    now = datetime.now(tz=UTC)  # the processes have the real clock, and take no windows of long ago
    fleet = FleetSimulator(3, model=MODEL)
    facts = installation.ask(f"seed({[device.device_id for device in fleet]!r})")
    installation.start("ingest-1", "ingest", "--member", "1")
    installation.start("ingest-2", "ingest", "--member", "2")
    installation.start("director")
    installation.start("publisher")
    installation.start("worker")
    devices = [ConnectedDevice(installation.broker, device, facts["plan_key"]) for device in fleet]
    for name in ("ingest-1", "ingest-2", "director"):
        wait_for(lambda name=name: "connected to the broker" in installation.log(name), name, WITHIN_S)  # type: ignore[misc]

    def heard(what: str) -> bool:
        for item in devices:
            item.listen()
        return all(getattr(item, what) for item in devices)

    wait_for(lambda: heard("notices"), "the retained plan notice", WITHIN_S)
    assert [rule.ranges[0].end for rule in devices[0].notices[0].rules] == [1_000_000]

    for item in devices:
        item.send(Up.CHECK, item.device.check(now).encode())
    wait_for(lambda: heard("bundles"), "signed bundles", WITHIN_S)
    assert facts["digest"] in devices[0].bundles[0].tickets

    for number in range(60):
        for item in devices:
            item.send(Up.TELEMETRY, item.device.window(now, n=10).encode())
        if number == 20:
            assert installation.end("ingest-1", signal.SIGKILL) == -signal.SIGKILL
        if number == 40:
            installation.start("ingest-1", "ingest", "--member", "1")
    wanted = set(range(1, 61))

    def everything_told() -> bool:
        heard("told")
        return all(item.told == wanted for item in devices)

    wait_for(everything_told, "acknowledgements of everything", WITHIN_S)
    assert installation.ask("totals()") == {"factory": 3 * 60 * 10}

    for item in devices:
        item.link.stop()
    for name in list(installation.running):
        began_s = time.monotonic()
        assert installation.end(name) == 0, installation.log(name)
        assert time.monotonic() - began_s < 30
        assert "stopped" in installation.log(name)
        assert "Traceback" not in installation.log(name)
