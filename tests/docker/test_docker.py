"""The container files against the code: no engine runs here, but what they say can be wrong in ways a test can see."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from device_client.wire.limits import MAX_MESSAGE_BYTES
from fleet.config.environment import parse_environment
from fleet.entrypoints.up.installation import WORKERS
from fleet.entrypoints.up.mosquitto_config import BrokerFiles, Listener, render_config

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
HOME = Path("/var/lib/modelfleet")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed = yaml.safe_load((DOCKER / "compose.yml").read_text(encoding="utf-8"))
    assert isinstance(parsed, dict)
    return parsed


def test_compose__services__are_the_processes_of_the_supervisor(compose: dict[str, Any]) -> None:
    ours = {name for name, service in compose["services"].items() if service["image"] == "modelfleet-server"}
    assert ours == {"prepare", "web", "device-web", *WORKERS}


def test_compose__management_commands__exist(compose: dict[str, Any]) -> None:
    named = {
        service["command"][2]
        for service in compose["services"].values()
        if service["command"] and service["command"][:2] == ["python", "manage.py"]
    }
    assert named == {"prepare", *WORKERS}
    assert named - get_commands().keys() == set()


def test_compose__environment__parses_as_the_server_parses_it(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        told = {
            key: re.sub(
                r"\$\{MODELFLEET_NAME[^}]*\}", "fleet.example.org", re.sub(r"\$\{POSTGRES_[^}]*\}", "secret", value)
            )
            for key, value in service.get("environment", {}).items()
            if key.startswith("MODELFLEET_")
        }
        if told:
            environment = parse_environment({**told, "MODELFLEET_HOME": str(HOME)}, root=ROOT, process=name)
            assert environment.over_tls
            assert environment.devices_only == (name == "device-web")


def test_compose__mounted_files__exist(compose: dict[str, Any]) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    relative = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert [path for path in relative if not (DOCKER / path).is_file()] == []
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}
    assert named == set(compose["volumes"])


def _directives(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_broker_configuration__production__is_that_of_the_embedded_broker() -> None:
    secrets, broker = HOME / "secrets", HOME / "broker"
    embedded = render_config(
        devices=Listener(8883, None, secrets / "device_ca.crt", secrets / "broker.crt", secrets / "broker.key"),
        internal=Listener(
            8884,
            None,
            secrets / "internal_ca.crt",
            secrets / "internal/broker.crt",
            secrets / "internal/broker.key",
        ),
        files=BrokerFiles(broker / "access.acl", broker / "devices.crl", broker / "store"),
        run_as_root=False,
    )
    production = (DOCKER / "mosquitto/mosquitto.conf").read_text(encoding="utf-8")
    assert f"max_packet_size {MAX_MESSAGE_BYTES}" in production
    assert _directives(production) == _directives(embedded)


def test_broker_script__syntax__is_plain_shell() -> None:
    subprocess.run(["sh", "-n", str(DOCKER / "mosquitto/run.sh")], check=True)


@pytest.mark.parametrize("dockerfile", sorted(DOCKER.glob("*.Dockerfile")), ids=lambda path: path.stem)
def test_dockerfile__copied_paths__are_in_the_repository_and_nobody_is_root(dockerfile: Path) -> None:
    text = re.sub(r"\\\n", " ", dockerfile.read_text(encoding="utf-8"))
    instructions = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert instructions[0][0] == "FROM"
    sources = [source for name, rest in instructions if name == "COPY" for source in shlex.split(rest)[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [rest for name, rest in instructions if name == "USER"] != []
