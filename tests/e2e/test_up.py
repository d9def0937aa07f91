"""`manage.py up` as a person uses it: real processes, a real broker, one terminal."""

import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from fleet.entrypoints.up.addresses import LOOPBACK
from tests.embedded_broker import answers, wait_for
from tests.toolchain.services import own_port

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 180.0
STOPPED_WITHIN_S = 40.0


@dataclass
class Up:
    """A running `manage.py up`."""

    process: "subprocess.Popen[str]"
    home: Path
    terminal: Path

    @property
    def note(self) -> dict[str, Any]:
        """What `up.json` says."""
        found: dict[str, Any] = json.loads((self.home / "up.json").read_text())
        return found

    def text(self) -> str:
        """What the terminal shows."""
        return self.terminal.read_text()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(STOPPED_WITHIN_S)


def command(home: Path, *arguments: str, own_ports: bool = True) -> dict[str, Any]:
    """What to start, with a database of its own; on ports that no other test is given, or those that it finds itself."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODELFLEET_")}
    names = ("--port", "--device-port", "--broker-port") if own_ports else ()
    asked = [part for name in names for part in (name, str(own_port()))]
    return {
        "args": [sys.executable, str(ROOT / "manage.py"), "up", *asked, *arguments],
        "cwd": ROOT,
        "env": {**inherited, "MODELFLEET_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        "text": True,
    }


@contextmanager
def running(home: Path, *arguments: str, own_ports: bool = True) -> Iterator[Up]:
    """`up`, started and ready; whatever a test leaves is stopped."""
    home.parent.mkdir(parents=True, exist_ok=True)
    terminal = home.parent / f"{home.name}.terminal"
    with terminal.open("w") as out:
        process = subprocess.Popen(**command(home, *arguments, own_ports=own_ports), stdout=out, stderr=out)
    found = Up(process, home, terminal)
    try:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not (home / "up.json").exists() or found.note["pids"]["up"] != process.pid:
            assert process.poll() is None, found.text()
            assert time.monotonic() < deadline_s, found.text()
            time.sleep(0.1)
        yield found
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOPPED_WITHIN_S)
            finally:
                process.kill()


def processes_of(home: Path) -> list[str]:
    """The command lines of every process that was told this home."""
    wanted = f"MODELFLEET_HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as response:
        return int(response.status)


@pytest.fixture(scope="module")
def shared_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One installation for the tests that leave it running."""
    with running(tmp_path_factory.mktemp("shared") / "home") as up:
        yield up


def test_up__started_and_interrupted__everything_answers_and_nothing_is_left(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home) as up:
        note = up.note
        assert status_of(f"{note['web_url']}/healthz") == 200
        assert status_of(f"{note['web_url']}/readyz") == 200
        for broker in (note["device_broker"], note["internal_broker"]):
            assert answers(int(broker.rpartition(":")[2]))
        assert {"up", "broker", "web", "ingest", "director", "conductor", "publisher", "worker"} <= set(note["pids"])
        assert re.search(r"login +admin / \S{12,}", up.text())
        modes = {path.name: path.stat().st_mode & 0o777 for path in home.glob("db.sqlite3*")}
        assert modes == {"db.sqlite3": 0o600, "db.sqlite3-wal": 0o600, "db.sqlite3-shm": 0o600}
        assert up.stop() == 0
        assert not (home / "up.json").exists()
        assert "stopped" in up.text()
    assert processes_of(home) == []
    # The password is shown once. Devices find the server where they were told that it is.
    with running(home, own_ports=False) as again:
        assert "admin /" not in again.text()
        assert {**again.note, "pids": None, "started_at": None} == {**note, "pids": None, "started_at": None}
        assert "warning" not in again.text()
        assert again.stop(signal.SIGTERM) == 0
    assert processes_of(home) == []


def test_up__stopped_while_it_starts__ends_cleanly_and_soon(tmp_path: Path) -> None:
    home = tmp_path / "home"
    terminal = tmp_path / "terminal"
    any_ports = ("--port", "0", "--device-port", "0", "--broker-port", "0")
    with terminal.open("w") as out:
        process = subprocess.Popen(**command(home, *any_ports, own_ports=False), stdout=out, stderr=out)
    log = home / "logs" / "web.log"
    # The moment at which granian's parent runs and its worker is still loading.
    wait_for(lambda: log.exists() and "Spawning worker" in log.read_text(), "the web server", READY_WITHIN_S)
    process.send_signal(signal.SIGINT)
    assert process.wait(STOPPED_WITHIN_S) == 0, terminal.read_text()
    assert "stopped" in terminal.read_text()
    assert "web       | did not end" not in terminal.read_text()
    assert processes_of(home) == []


def test_up__a_process_is_killed__it_comes_back_and_the_note_knows(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home) as up:
        before = up.note["pids"]
        for name in ("web", "broker"):
            os.kill(before[name], signal.SIGKILL)
        wait_for(
            lambda: all(up.note["pids"].get(name, before[name]) != before[name] for name in ("web", "broker")), "both"
        )
        port = int(up.note["web_url"].rpartition(":")[2])
        wait_for(lambda: answers(port), "the web server", READY_WITHIN_S)
        assert status_of(f"{up.note['web_url']}/readyz") == 200
        assert "ended with SIGKILL, starting it again" in up.text()


def test_up__killed_itself__no_process_is_left(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home) as up:
        assert len(processes_of(home)) >= 3
        up.process.kill()
        up.process.wait()
        wait_for(lambda: processes_of(home) == [], "the end of all processes", 20)
    # What it left behind does not disturb the next one, and its note is not taken for the next one's.
    left = (home / "up.json").read_text()
    with running(home) as again:
        assert (home / "up.json").read_text() != left
        assert again.stop() == 0


def test_up__a_second_one_on_the_same_home__refused_in_one_line(shared_up: Up) -> None:
    second = subprocess.run(**command(shared_up.home), capture_output=True, check=False, timeout=60)
    assert second.returncode == 1
    assert second.stderr.strip() == (
        f"CommandError: another `up` (pid {shared_up.process.pid}) already runs on {shared_up.home}"
    )
    assert status_of(f"{shared_up.note['web_url']}/healthz") == 200


REVOKE = """
from datetime import timedelta
from django.utils import timezone
from fleet.apps.trust import services
from fleet.apps.trust.models import Certificate
now = timezone.now()
Certificate.objects.create(serial="a1b2", device_id="dev-gone", not_before=now, not_after=now + timedelta(days=30))
services.revoke_device(device_id="dev-gone", actor="test", now=now)
"""


def test_up__device_is_revoked__the_broker_starts_anew_with_the_new_lists(shared_up: Up) -> None:
    start = command(shared_up.home)
    start["args"] = [sys.executable, str(ROOT / "manage.py"), "shell", "-c", REVOKE]
    access_list = shared_up.home / "broker" / "access.acl"
    assert "dev-gone" not in access_list.read_text()
    subprocess.run(**start, check=True, timeout=60)
    wait_for(lambda: "user dev-gone\ntopic deny #" in access_list.read_text(), "the access list")
    wait_for(lambda: "starts anew, because who may connect has changed" in shared_up.text(), "the broker to be told")
    crl = x509.load_pem_x509_crl((shared_up.home / "broker" / "devices.crl").read_bytes())
    assert crl.get_revoked_certificate_by_serial_number(0xA1B2) is not None


def test_up__port_that_was_asked_for_is_taken__one_line_and_status_1(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = subprocess.run(
            **command(tmp_path / "home", "--port", str(port)), capture_output=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr.strip().startswith(f"CommandError: port {port} (pages and REST) is taken")
    assert processes_of(tmp_path / "home") == []


def test_up__home_cannot_be_made__one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(**command(tmp_path / "file" / "home"), capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip() == f"CommandError: {tmp_path}/file/home: Not a directory"


def test_up__environment_makes_no_sense__one_line_and_status_1(tmp_path: Path) -> None:
    start = command(tmp_path / "home")
    start["env"]["MODELFLEET_DATABASE_URL"] = "mysql://root:secret@db/x"
    done = subprocess.run(**start, capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "MODELFLEET_DATABASE_URL: got 'mysql://root@db/x', expected sqlite:" in done.stderr
    assert "secret" not in done.stderr


def test_up__database_does_not_answer__one_line_and_status_1(tmp_path: Path) -> None:
    start = command(tmp_path / "home")
    start["env"]["MODELFLEET_DATABASE_URL"] = f"postgres://nobody@{LOOPBACK}:{own_port()}/nothing"
    done = subprocess.run(**start, capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot prepare the database" in done.stderr
    assert processes_of(tmp_path / "home") == []


@pytest.fixture(scope="module")
def lan_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An installation that is open to the network; the network is this machine."""
    home = tmp_path_factory.mktemp("lan") / "home"
    with running(home, "--device-web-port", str(own_port()), "--lan", LOOPBACK) as up:
        yield up


def test_up_lan__device_connects__gets_a_web_server_of_its_own_over_tls_and_nothing_else(lan_up: Up) -> None:
    note = lan_up.note
    assert note["device_url"].startswith(f"https://{LOOPBACK}:")
    assert note["web_url"].startswith(f"http://{LOOPBACK}:")
    context = ssl.create_default_context(cafile=str(lan_up.home / "secrets" / "device_ca.crt"))
    with urllib.request.urlopen(f"{note['device_url']}/healthz", context=context, timeout=10) as response:
        assert response.status == 200
    for private in ("/", "/admin/", "/login", "/api/v1/models"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{note['device_url']}{private}", context=context, timeout=10)
        assert refused.value.code == 404


def test_up_lan__keys_are_imported__prints_a_command_with_which_a_device_enrols(lan_up: Up, tmp_path: Path) -> None:
    assert "modelfleet-device enroll" not in lan_up.text()
    told = command(lan_up.home)["env"]
    manage = [sys.executable, str(ROOT / "manage.py")]
    token = subprocess.run(
        [*manage, "issue_token", "--name", "test", "--scopes", "trust:write,read"],
        env=told, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60,
    ).stdout.strip()  # fmt: skip
    programs = Path(sys.executable).parent
    subprocess.run(
        [programs / "modelfleet", "keys", "init", tmp_path / "keys", "--no-passphrase"],
        env={**told, "MODELFLEET_URL": lan_up.note["web_url"], "MODELFLEET_TOKEN": token},
        cwd=tmp_path, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    wait_for(lambda: "modelfleet-device enroll" in lan_up.text(), "the invitation", 60)
    invitation = next(line for line in lan_up.text().splitlines() if "modelfleet-device enroll" in line)
    program, *arguments = shlex.split(invitation.replace("NAMESPACE.NAME", "vision.digits"))
    enrolled = subprocess.run(
        [programs / program, *arguments, "--state", tmp_path / "device"],
        env=told, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert enrolled.returncode == 0, enrolled.stderr
    assert "enrolled as device-" in enrolled.stdout
    again = subprocess.run(
        [programs / program, *arguments, "--state", tmp_path / "thief"],
        env=told, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert again.returncode != 0
