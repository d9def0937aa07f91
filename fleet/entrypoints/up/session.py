"""One run of `manage.py up`, from the first process to the last: start, watch, stop."""

import asyncio
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from fleet.entrypoints.up.console import Console
from fleet.entrypoints.up.errors import PortTakenError, UpError
from fleet.entrypoints.up.installation import BROKER, WEB, WORKERS, Installation
from fleet.entrypoints.up.invitation import invite
from fleet.entrypoints.up.listeners import Listening, listening
from fleet.entrypoints.up.lock_watch import watch_lock
from fleet.entrypoints.up.mosquitto import Mosquitto
from fleet.entrypoints.up.supervisor import RestartPolicy, Supervisor

_READY_WITHIN_S: Final = 120.0
_POLL_S: Final = 0.1
_WATCH_S: Final = 0.5
_RESTARTS_APART_S: Final = 5.0
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Session:
    """Runs an installation until a signal, or until one of its processes cannot be kept running."""

    def __init__(
        self,
        installation: Installation,
        console: Console,
        now: Callable[[], datetime],
        *,
        sqlite: Path | None = None,
    ) -> None:
        self._installation = installation
        self._sqlite = sqlite
        self._console = console
        self._now = now
        self._started_at: datetime | None = None

    async def run(
        self,
        mosquitto: Mosquitto,
        environment: Mapping[str, str],
        on_ready: Callable[[], None],
        policy: RestartPolicy | None = None,
    ) -> None:
        """Returns after a clean stop that was asked for; raises UpError, with everything stopped, for any other end."""
        stop = asyncio.Event()
        self._listen_for_signals(stop)
        supervisor = Supervisor(
            console=self._console,
            logs=self._installation.home / "logs",
            policy=policy,
            on_change=lambda: self._renew_note(supervisor),
        )
        stopped = asyncio.create_task(stop.wait())
        try:
            if await self._start(supervisor, stopped, mosquitto, environment):
                self._started_at = self._now()
                self._installation.write_note(supervisor.pids(), self._started_at)
                on_ready()
                watcher = asyncio.create_task(self._restart_broker_on_change(supervisor))
                lock_watcher = asyncio.create_task(self._watch_lock(supervisor))
                inviter = asyncio.create_task(self._invite(environment))
                ends: list[asyncio.Future[Any]] = [stopped, supervisor.failed]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                watcher.cancel()
                lock_watcher.cancel()
                inviter.cancel()
        finally:
            self._started_at = None
            with suppress(OSError):
                self._installation.note.unlink(missing_ok=True)
            self._console.say("stopping ...")
            await supervisor.stop(last=BROKER)
            stopped.cancel()
        if supervisor.failed.done():
            raise supervisor.failed.result()
        self._console.say("stopped")

    async def _watch_lock(self, supervisor: Supervisor) -> None:
        if self._sqlite is not None:
            await watch_lock(self._sqlite, supervisor, self._console)

    async def _invite(self, environment: Mapping[str, str]) -> None:
        if self._installation.addresses.device_web_port is not None:
            await invite(self._installation, environment, self._console)

    def _listen_for_signals(self, stop: asyncio.Event) -> None:
        """The first signal stops cleanly; so do the others, since each stop is bounded in time."""
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, stop.set)

    async def _start(
        self,
        supervisor: Supervisor,
        stopped: "asyncio.Task[bool]",
        mosquitto: Mosquitto,
        environment: Mapping[str, str],
    ) -> bool:
        """Start everything, the broker first; False when it was stopped or given up before it was ready."""
        installation = self._installation
        addresses = installation.addresses
        config = installation.write_broker_config(run_as_root=os.geteuid() == 0)
        try:
            await supervisor.start(installation.broker(mosquitto, config, environment))
            broker_ports = (addresses.device_port, addresses.internal_port)
            broker_listens = _all_of(*(_ours(supervisor, BROKER, port) for port in broker_ports))
            if not await self._ready("the broker", broker_listens, supervisor, stopped):
                return False
            await supervisor.start(installation.web(environment))
            ready = [_ours(supervisor, WEB, addresses.web_port), _answers(f"{addresses.local_url}/healthz")]
            device_web = installation.device_web(environment)
            if device_web is not None and addresses.device_web_port is not None:
                await supervisor.start(device_web)
                ready.append(_ours(supervisor, device_web.name, addresses.device_web_port))
            for name in WORKERS:
                await supervisor.start(installation.worker(name, environment))
        except OSError as error:
            raise UpError(f"cannot start {error.filename or 'a process'}: {error.strerror}") from error
        return await self._ready("the web server", _all_of(*ready), supervisor, stopped)

    async def _ready(
        self,
        what: str,
        condition: Callable[[], Awaitable[bool]],
        supervisor: Supervisor,
        stopped: "asyncio.Task[bool]",
    ) -> bool:
        """Wait until the condition holds; False when it was stopped or given up before."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _READY_WITHIN_S
        while not (stopped.done() or supervisor.failed.done()):
            if await condition():
                return True
            if loop.time() > deadline_s:
                logs = self._installation.home / "logs"
                raise UpError(f"{what} did not answer within {_READY_WITHIN_S:.0f} s; logs: {logs}")
            await asyncio.sleep(_POLL_S)
        return False

    def _renew_note(self, supervisor: Supervisor) -> None:
        """Pids change when a process is started again."""
        if self._started_at is not None:
            try:
                self._installation.write_note(supervisor.pids(), self._started_at)
            except OSError as error:
                self._console.say(f"cannot write {self._installation.note}: {error.strerror}")

    async def _restart_broker_on_change(self, supervisor: Supervisor) -> None:
        """Have the broker read its lists again when somebody was shut out (decision 18: a restart and no SIGHUP)."""
        seen = self._access_files_state()
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._access_files_state() != seen:
                await asyncio.sleep(_WATCH_S)  # there are two files; the second follows at once
                seen = self._access_files_state()
                self._console.event(BROKER, "starts anew, because who may connect has changed")
                supervisor.restart(BROKER)
                await asyncio.sleep(_RESTARTS_APART_S)

    def _access_files_state(self) -> tuple[tuple[int, int], ...]:
        return tuple(_file_state(path) for path in self._installation.broker_access_files)


def _file_state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)


def _all_of(*conditions: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
    """All of them, each asked only if those before it hold."""

    async def check() -> bool:
        for condition in conditions:
            if not await condition():
                return False
        return True

    return check


def _ours(supervisor: Supervisor, name: str, port: int) -> Callable[[], Awaitable[bool]]:
    """Whether our own process listens there; raises PortTakenError when something else does."""

    async def check() -> bool:
        found = await asyncio.to_thread(listening, port, supervisor.pids().get(name))
        if found is Listening.FOREIGN:
            raise PortTakenError(f"port {port} ({name}) was taken by another program meanwhile: start again")
        return found is Listening.OURS

    return check


def _answers(url: str) -> Callable[[], Awaitable[bool]]:
    def request() -> bool:
        try:
            # The supervisor's own loopback address, never one from outside.
            with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310
                return bool(response.status < 500)  # noqa: PLR2004 - anything but a server error is an answer
        except (OSError, urllib.error.URLError):
            return False

    async def check() -> bool:
        return await asyncio.to_thread(request)

    return check
