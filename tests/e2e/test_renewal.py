"""A car that was parked for a winter: its certificate has lapsed, and the real command renews it against the real server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from device_client.adapters.identity import IdentityPaths, load_key, make_request
from device_client.config import StatePaths
from fleet.adapters.pki_files import SecretFiles
from fleet.entrypoints.up.addresses import LOOPBACK
from tests.e2e.test_up import ROOT, Up, command, running
from tests.embedded_broker import wait_for

DEVICE = "car-0001"
PROGRAMS = Path(sys.executable).parent


def run(up: Up, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """One command to its end, as an operator of this installation."""
    return subprocess.run(
        arguments, env=command(up.home)["env"], cwd=ROOT, check=False, capture_output=True, text=True, timeout=90
    )


def manage(up: Up, *arguments: str) -> str:
    """The output of a management command."""
    done = run(up, sys.executable, ROOT / "manage.py", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def enrolled(up: Up, directory: Path) -> IdentityPaths:
    """A device that has joined by the printed command; returns where its identity lies."""
    token = manage(up, "issue_token", "--name", "test", "--scopes", "trust:write,read")
    keys: list[str | Path] = [PROGRAMS / "modelfleet", "keys", "init", directory / "keys", "--no-passphrase"]
    environment = {**command(up.home)["env"], "MODELFLEET_URL": up.note["web_url"], "MODELFLEET_TOKEN": token}
    subprocess.run(keys, env=environment, cwd=directory, check=True, capture_output=True, timeout=90)
    _program, _enroll, _url, *claim = manage(up, "create_claim", DEVICE, "--hardware-class", "car").split()
    state = directory / "device"
    choices = ("--state", state, "--model", "vision.digits")
    done = run(up, PROGRAMS / "modelfleet-device", "enroll", up.note["device_url"], *claim, *choices)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return IdentityPaths(StatePaths(state).identity)


def let_lapse(up: Up, identity: IdentityPaths) -> None:
    """Put a certificate of last winter in the place of the device's own, over the same key."""
    authority = SecretFiles(up.home / "secrets").device_authority()
    issued = authority.issue(make_request(load_key(identity), ""), DEVICE, datetime.now(tz=UTC) - timedelta(days=120))
    identity.certificate.write_text(issued.chain_pem)


@contextmanager
def agent(up: Up, identity: IdentityPaths) -> Iterator[Path]:
    """The device's agent at work; yields its log."""
    log = identity.directory.parent.parent / "agent.log"
    arguments: list[str | Path] = [PROGRAMS / "modelfleet-device", "run", "--state", identity.directory.parent]
    with log.open("w") as out:
        process = subprocess.Popen(arguments, env={**os.environ}, cwd=up.home.parent, stdout=out, stderr=out)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(30)


def serial_of(identity: IdentityPaths) -> int:
    return x509.load_pem_x509_certificates(identity.certificate.read_bytes())[0].serial_number


def test_renewal__certificate_lapsed_in_winter__renewed_over_tls_and_connected(tmp_path: Path) -> None:
    with running(tmp_path / "home", "--device-web-port", "0", "--lan", LOOPBACK) as up:
        identity = enrolled(up, tmp_path)
        key = load_key(identity).public_key()
        let_lapse(up, identity)
        lapsed = serial_of(identity)
        doctor = run(up, PROGRAMS / "modelfleet-device", "doctor", "--state", identity.directory.parent)
        assert (doctor.returncode, "next renewal is due now" in doctor.stdout) == (1, True), doctor.stdout
        with agent(up, identity) as log:
            wait_for(lambda: serial_of(identity) != lapsed, "a new certificate", 60)
            online = "from fleet.apps.devices.models import Device; print(Device.objects.get().online)"
            wait_for(lambda: manage(up, "shell", "-v", "0", "-c", online) == "True", "the device at the broker", 60)
            text = log.read_text()
        assert "the certificate has lapsed" in text
        assert "refused the connection" not in text
        renewed = x509.load_pem_x509_certificates(identity.certificate.read_bytes())[0]
        assert renewed.public_key() == key
        doctor = run(up, PROGRAMS / "modelfleet-device", "doctor", "--state", identity.directory.parent)
        assert "ok   certificate" in doctor.stdout, doctor.stdout
        # Whoever is revoked stays out, whatever he holds.
        revoke = (
            "from django.utils import timezone; from fleet.wiring import fleet_access; "
            f"fleet_access.revoke_device(device_id='{DEVICE}', actor='test', now=timezone.now())"
        )
        manage(up, "shell", "-v", "0", "-c", revoke)
        let_lapse(up, identity)
        lapsed = serial_of(identity)
        with agent(up, identity) as log:
            wait_for(lambda: "HTTP 403" in log.read_text(), "the refusal", 60)
        assert serial_of(identity) == lapsed
