"""Who listens on a port, with real sockets and processes; and ports reserved against another `up`."""

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleet.entrypoints.up.addresses import LOOPBACK, Addresses, any_free_port, port_is_free
from fleet.entrypoints.up.console import Console
from fleet.entrypoints.up.errors import PortTakenError
from fleet.entrypoints.up.installation import Installation, LastTold
from fleet.entrypoints.up.listeners import Listening, PortReservations, listening
from fleet.entrypoints.up.mosquitto import Mosquitto
from fleet.entrypoints.up.session import Session

LISTEN = """
import socket, sys, time
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
print("listens", flush=True)
time.sleep(60)
"""


@pytest.fixture
def port() -> int:
    return any_free_port()


@pytest.fixture
def process(port: int) -> Iterator["subprocess.Popen[str]"]:
    """A process of ours whose child listens, as granian's worker does, on a port that may be shared."""
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LISTEN!r}, '{port}'])"
    command = [sys.executable, "-c", script]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "listens\n"
    yield child
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_listening__nobody__says_so(port: int) -> None:
    assert listening(port, leader=1) is Listening.NOBODY


def test_listening__child_of_our_process__ours_and_foreign_to_others(
    port: int, process: "subprocess.Popen[str]"
) -> None:
    assert listening(port, leader=process.pid) is Listening.OURS
    assert listening(port, leader=None) is Listening.FOREIGN
    assert listening(port, leader=1) is Listening.FOREIGN


def test_listening__shared_with_somebody_else__foreign(port: int, process: "subprocess.Popen[str]") -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((LOOPBACK, port))
        other.listen()
        assert listening(port, leader=process.pid) is Listening.FOREIGN
    assert listening(port, leader=process.pid) is Listening.OURS


def test_listening__system_without_procfs__whoever_answers_is_believed(port: int, tmp_path: Path) -> None:
    assert listening(port, leader=None, proc=tmp_path) is Listening.NOBODY
    with socket.create_server((LOOPBACK, port)):
        assert listening(port, leader=None, proc=tmp_path) is Listening.OURS


def test_port_reservations__two_at_the_same_moment__only_one_gets_the_port(port: int) -> None:
    ours, theirs = (PortReservations(port_is_free, lambda: port) for _ in range(2))
    assert ours.take(port)
    assert not ours.take(port)
    assert not theirs.take(port)
    with pytest.raises(OSError, match="expected a free port"):
        theirs.take_any()
    ours.release()
    assert theirs.take_any() == port
    theirs.release()


def test_port_reservations__somebody_listens__not_taken_and_not_kept(port: int) -> None:
    reservations = PortReservations(port_is_free, any_free_port)
    with socket.create_server((LOOPBACK, port)):
        assert not reservations.take(port)
    assert reservations.take(port)
    reservations.release()


def test_session__port_is_taken_between_choice_and_start__stops_and_says_which(port: int, tmp_path: Path) -> None:
    script = tmp_path / "mosquitto"
    script.write_text("#!/bin/sh\nsleep 60\n")
    script.chmod(0o755)
    addresses = Addresses(any_free_port(), port, any_free_port(), LOOPBACK, None, "http://127.0.0.1:1")
    session = Session(Installation(tmp_path, tmp_path, addresses), Console(io.StringIO()), lambda: datetime.now(UTC))
    with socket.create_server((LOOPBACK, port)), pytest.raises(PortTakenError, match=rf"port {port} \(broker\)"):
        asyncio.run(session.run(Mosquitto(script), {}, lambda: None))


ADDRESSES = Addresses(8000, 8883, 8884, LOOPBACK, None, "http://127.0.0.1:8000")


def test_last_told__written_and_read__the_same_and_nothing_has_changed(tmp_path: Path) -> None:
    LastTold.of(ADDRESSES).write(tmp_path)
    found = LastTold.read(tmp_path)
    assert found == LastTold.of(ADDRESSES)
    assert found.ports["broker for devices"] == 8883
    assert found.changes(ADDRESSES) == []


def test_last_told__moved__says_what_devices_cannot_find() -> None:
    now = Addresses(8001, 8885, 8884, LOOPBACK, None, "http://127.0.0.1:8001")
    server, broker = LastTold.of(ADDRESSES).changes(now)
    assert "http://127.0.0.1:8000, and it is at http://127.0.0.1:8001 now" in server
    assert "127.0.0.1:8883, and it is 127.0.0.1:8885 now" in broker


@pytest.mark.parametrize("content", ["", "{", "[]", '{"ports": {"x": "y"}}', '{"ports": {"x": 70000}}'])
def test_last_told__unreadable__as_if_there_were_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "addresses.json").write_text(content)
    assert LastTold.read(tmp_path) == LastTold({})
    assert LastTold({}).changes(ADDRESSES) == []
