"""`manage.py up`: a whole installation on this machine, in one terminal."""

import asyncio
import fcntl
import os
import secrets
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections

from fleet.entrypoints.up.addresses import (
    DEVICE_PORT,
    DEVICE_WEB_PORT,
    INTERNAL_PORT,
    LOOPBACK,
    WEB_PORT,
    Addresses,
    WantedPort,
    any_free_port,
    choose_ports,
    own_network_address,
    port_is_free,
)
from fleet.entrypoints.up.console import Console
from fleet.entrypoints.up.errors import AlreadyRunningError, UpError
from fleet.entrypoints.up.installation import Installation, LastTold
from fleet.entrypoints.up.listeners import PortReservations
from fleet.entrypoints.up.mosquitto import find_mosquitto
from fleet.entrypoints.up.session import Session
from fleet.wiring.installation import system_clock

FIRST_USER = "admin"


class Command(BaseCommand):
    """Prepares the installation, then hands it to the supervisor. Every failure is one line and exit status 1."""

    help = "Run everything on this machine: broker, web, ingest, director, conductor, publisher, worker."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--lan",
            nargs="?",
            const="",
            metavar="ADDRESS",
            help="let devices of the local network join, under this address (default: the one of the default route)",
        )
        for name, purpose in (
            ("port", "pages and REST"),
            ("device-port", "broker, for devices"),
            ("broker-port", "broker, for our own processes"),
            ("device-web-port", "web server for devices, only with --lan"),
        ):
            parser.add_argument(f"--{name}", type=int, metavar="PORT", help=f"{purpose}; 0 takes any free port")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run until a signal."""
        console = Console(everything=options["verbosity"] > 1)
        try:
            with _only_one(settings.MODELFLEET.home):
                self._run(console, options)
        except UpError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{error.filename or settings.MODELFLEET.home}: {error.strerror}") from error
        except DatabaseError as error:
            raise CommandError(f"the database of {settings.MODELFLEET.home}: {error}".splitlines()[0]) from error
        except KeyboardInterrupt:
            raise CommandError("interrupted before everything was started", returncode=130) from None

    def _run(self, console: Console, options: Mapping[str, Any]) -> None:
        root = settings.BASE_DIR
        home = settings.MODELFLEET.home
        mosquitto = find_mosquitto(_tools_directory(root, home), console.say)
        # Reserved until this process ends.
        reservations = PortReservations(port_is_free, any_free_port)
        last_told = LastTold.read(home)
        installation = Installation(root, home, _addresses(options, last_told, reservations, console))
        for line in last_told.changes(installation.addresses):
            console.say(line)
        # Left behind by a run that was killed: it would tell of processes that are gone.
        installation.note.unlink(missing_ok=True)
        environment = installation.environment(os.environ)
        _prepare(root, environment)
        password = _create_first_user()

        def on_ready() -> None:
            installation.remember_addresses()
            for line in _welcome(installation, password, in_lan=options["lan"] is not None):
                console.say(line)

        console.say("starting ...")
        database = connections["default"]
        sqlite = Path(database.settings_dict["NAME"]) if database.vendor == "sqlite" else None
        session = Session(installation, console, system_clock().now, sqlite=sqlite)
        asyncio.run(session.run(mosquitto, environment, on_ready))


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the home's lock, which the system releases however this process ends."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # "a", so that the pid of the one who holds the lock is not wiped out by the one who does not get it.
    with (home / "up.lock").open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise AlreadyRunningError(f"another `up` (pid {lock.read().strip()}) already runs on {home}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _tools_directory(root: Path, home: Path) -> Path:
    """Fetched tools are kept in the checkout, for all homes, unless it cannot be written."""
    shared = root / "var" / "tools"
    with suppress(OSError):
        shared.mkdir(parents=True, exist_ok=True)
        if os.access(shared, os.W_OK):
            return shared
    return home / "tools"


def _addresses(
    options: Mapping[str, Any], last_told: LastTold, reservations: PortReservations, console: Console
) -> Addresses:
    """Where to listen: what was asked for, else where devices look for us, else the usual ports."""
    told = settings.MODELFLEET
    in_lan = options["lan"] is not None
    wishes = [
        (WEB_PORT, _usual(WEB_PORT, 8000, last_told), options["port"]),
        (DEVICE_PORT, _usual(DEVICE_PORT, told.device_broker.port, last_told, "DEVICE_BROKER"), options["device_port"]),
        (INTERNAL_PORT, _usual(INTERNAL_PORT, told.broker.port, last_told, "BROKER"), options["broker_port"]),
    ]
    if in_lan:
        wishes.append((DEVICE_WEB_PORT, _usual(DEVICE_WEB_PORT, 8443, last_told), options["device_web_port"]))
    wanted = [WantedPort(*wish) for wish in wishes]
    ports = choose_ports(wanted, reservations.take, reservations.take_any, console.say)
    own_url = f"http://{LOOPBACK}:{ports[0]}"
    return Addresses(
        web_port=ports[0],
        device_port=ports[1],
        internal_port=ports[2],
        device_host=(options["lan"] or own_network_address()) if in_lan else told.device_broker.host,
        device_web_port=ports[3] if in_lan else None,
        # An operator who puts a proxy in front says so; otherwise the address follows from the port.
        public_url=told.public_url if "MODELFLEET_PUBLIC_URL" in os.environ else own_url,
    )


def _usual(purpose: str, port: int, last_told: LastTold, variable: str | None = None) -> int:
    """The port of the last run, unless this run's environment names one."""
    is_stated = variable is not None and f"MODELFLEET_{variable}" in os.environ
    return port if is_stated else last_told.ports.get(purpose, port)


def _prepare(root: Path, environment: Mapping[str, str]) -> None:
    """In a process of its own: certificates name the addresses that were chosen, which this process was not told."""
    command = [sys.executable, str(root / "manage.py"), "prepare", "--verbosity", "0", "--no-color"]
    done = subprocess.run(command, cwd=root, env=dict(environment), stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise UpError(lines[-1].removeprefix("CommandError: ") if lines else f"prepare ended with {done.returncode}")


def _create_first_user() -> str | None:
    """Make a first login if there is none, and return its password, which is kept nowhere else."""
    users = get_user_model()
    try:
        if users.objects.exists():
            return None
        password = secrets.token_urlsafe(12)
        users.objects.create_superuser(username=FIRST_USER, password=password)
        return password
    finally:
        connections.close_all()


def _welcome(installation: Installation, password: str | None, *, in_lan: bool) -> list[str]:
    addresses = installation.addresses
    lines = [
        "",
        "Modelfleet runs. Ctrl-C stops it.",
        f"  pages     {addresses.public_url}",
        f"  login     {FIRST_USER} / {password}   (shown once)" if password else "  login     as before",
        f"  devices   {addresses.device_broker} (MQTT), {addresses.device_url} (HTTP)",
        f"  logs      {installation.home / 'logs'}",
        "  next      manage.py issue_token --name NAME --scopes SCOPES   makes a token for a person or pipeline",
        f"            modelfleet login {addresses.public_url} --token TOKEN",
        "            modelfleet keys init DIR   makes the signing keys that no server may hold",
    ]
    if in_lan:
        lines += [
            "  join      follows here as soon as there are keys; for more devices:",
            "            modelfleet devices claim DEVICE --hardware-class CLASS",
        ]
    return [*lines, ""]
