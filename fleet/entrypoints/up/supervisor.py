"""Keeps processes running: starts them, starts them again when they end, and stops them all together.

It knows nothing of Modelfleet. Each process leads a session of its own, so that Ctrl-C reaches only the supervisor and a
whole family can be ended at once; and the kernel ends each one if the supervisor itself is killed (on Linux).
"""

import asyncio
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fleet.entrypoints.up.children import end_with_parent
from fleet.entrypoints.up.console import Console, LogFile
from fleet.entrypoints.up.errors import CrashLoopError

_LAST_WORDS: Final = 12
_READ_BYTES: Final = 65_536
# How often it is looked whether a process has ended. asyncio's own way waits for the end of its output too, which a
# grandchild that lives on would delay for ever.
_POLL_S: Final = 0.1


@dataclass(frozen=True)
class Process:
    """What to run. Its name is also the name of its log file."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path


@dataclass(frozen=True)
class RestartPolicy:
    """When a process that ended is started again."""

    quick_s: float = 10.0
    """A process that ran shorter than this has crashed quickly; longer forgives what was before."""
    first_delay_s: float = 0.5
    longest_delay_s: float = 15.0
    max_quick_crashes: int = 5

    def delay_s(self, quick_crashes: int) -> float | None:
        """How long to wait after the n-th quick crash in a row (0: it had run well); None gives up."""
        if quick_crashes >= self.max_quick_crashes:
            return None
        return min(self.longest_delay_s, self.first_delay_s * float(2 ** max(0, quick_crashes - 1)))


@dataclass
class _Running:
    process: Process
    log: LogFile
    task: "asyncio.Task[None] | None" = None
    child: "subprocess.Popen[bytes] | None" = None
    unfinished: bytes = b""
    """The start of a line whose end was not yet written."""
    last_words: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_WORDS))
    log_failed: bool = False
    is_wanted_again: bool = False
    """It was told to end so that it starts anew."""


class Supervisor:
    """Runs processes until `stop`. Used by one asyncio task; `failed` is set when a process was given up."""

    def __init__(
        self,
        *,
        console: Console,
        logs: Path,
        policy: RestartPolicy | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._console = console
        self._logs = logs
        self._policy = policy or RestartPolicy()
        self._on_change = on_change
        self._running: dict[str, _Running] = {}
        self._stopping = False
        self.failed: asyncio.Future[CrashLoopError] = asyncio.get_running_loop().create_future()

    def pids(self) -> dict[str, int]:
        """The processes that are alive now, by name."""
        return {
            name: running.child.pid
            for name, running in self._running.items()
            if running.child is not None and running.child.poll() is None
        }

    async def start(self, process: Process) -> None:
        """Start a process and keep it running; returns when it has been started. Raises OSError if it cannot be."""
        running = _Running(process, LogFile(self._logs / f"{process.name}.log"))
        self._running[process.name] = running
        self._spawn(running)
        running.task = asyncio.create_task(self._keep_running(running), name=process.name)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process, if it is alive."""
        pid = self.pids().get(name)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def restart(self, name: str) -> None:
        """Have a process end in an orderly way and start anew; this is no crash. One that is not alive starts anyway."""
        if name in self.pids():
            self._running[name].is_wanted_again = True
            self.signal(name, signal.SIGTERM)

    def kill(self, name: str) -> None:
        """End a process and its family at once; it is started again like one that crashed."""
        pid = self.pids().get(name)
        if pid is not None:
            _kill_family(pid)

    async def stop(self, *, last: str | None = None, within_s: float = 9.0) -> None:
        """End every process, `last` after all others; those that take too long are killed. No process is left."""
        self._stopping = True
        first = [running for name, running in self._running.items() if name != last]
        rest = [running for name, running in self._running.items() if name == last]
        await self._end(first, within_s * 0.7)
        await self._end(rest, within_s * 0.3)
        for running in self._running.values():
            running.log.close()

    async def _end(self, group: list[_Running], within_s: float) -> None:
        for running in group:
            self.signal(running.process.name, signal.SIGTERM)
        tasks = [running.task for running in group if running.task is not None]
        # One that waits for its next start has nothing to end.
        for running in group:
            if running.task is not None and running.process.name not in self.pids():
                running.task.cancel()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=within_s)
        for running in group:
            if running.task in late and running.child is not None:
                self._console.event(running.process.name, f"did not end within {within_s:.0f} s and was killed")
                _kill_family(running.child.pid)
        if late:
            await asyncio.wait(late, timeout=2)

    def _spawn(self, running: _Running) -> None:
        process = running.process
        running.child = subprocess.Popen(
            process.command,
            env=dict(process.environment),
            cwd=process.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent(),  # noqa: PLW1509 - what it does takes no lock
        )
        running.last_words.clear()
        self._on_change()

    async def _keep_running(self, running: _Running) -> None:
        loop = asyncio.get_running_loop()
        name = running.process.name
        quick_crashes = 0
        while running.child is not None:
            started_at_s = loop.time()
            status = await self._follow(running, running.child)
            if self._stopping:
                return
            if running.is_wanted_again:
                running.is_wanted_again = False
            else:
                quick_crashes = quick_crashes + 1 if loop.time() - started_at_s < self._policy.quick_s else 0
                delay_s = self._policy.delay_s(quick_crashes)
                if delay_s is None:
                    self._give_up(running, status, quick_crashes)
                    return
                self._console.event(name, f"ended with {_describe(status)}, starting it again in {delay_s:g} s")
                self._show_last_words(running)
                self._on_change()
                await asyncio.sleep(delay_s)
            try:
                self._spawn(running)
            except OSError as error:
                self._console.event(name, f"cannot be started: {error.strerror}")
                self._give_up(running, status, quick_crashes)
                return

    def _give_up(self, running: _Running, status: int, crashes: int) -> None:
        self._show_last_words(running)
        if not self.failed.done():
            self.failed.set_result(
                CrashLoopError(
                    f"{running.process.name} ended {crashes} times right after its start, last with {_describe(status)}; "
                    f"its log: {self._logs / running.process.name}.log",
                ),
            )

    async def _follow(self, running: _Running, child: "subprocess.Popen[bytes]") -> int:
        """Pass on what a process writes until it ends; nothing of its family survives it. Returns its status."""
        loop = asyncio.get_running_loop()
        output = child.stdout.fileno() if child.stdout is not None else -1
        os.set_blocking(output, False)
        loop.add_reader(output, self._read, running, output)
        try:
            while (status := child.poll()) is None:  # noqa: ASYNC110 - nobody announces the end of a process
                await asyncio.sleep(_POLL_S)
        finally:
            _kill_family(child.pid)
            loop.remove_reader(output)
            while self._read(running, output):
                pass
            self._finish_line(running)
            if child.stdout is not None:
                child.stdout.close()
        return status

    def _read(self, running: _Running, output: int) -> bool:
        """Pass on what there is to read; False when there is nothing."""
        try:
            chunk = os.read(output, _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            # It closed its output, and may yet run on.
            asyncio.get_running_loop().remove_reader(output)
            return False
        *lines, running.unfinished = (running.unfinished + chunk).split(b"\n")
        for line in lines:
            self._write(running, line)
        if len(running.unfinished) > _READ_BYTES:
            self._finish_line(running)
        return True

    def _finish_line(self, running: _Running) -> None:
        if running.unfinished:
            self._write(running, running.unfinished)
            running.unfinished = b""

    def _write(self, running: _Running, line: bytes) -> None:
        try:
            running.log.write(line)
            running.log_failed = False
        except OSError as error:
            if not running.log_failed:
                self._console.event(running.process.name, f"its log cannot be written: {error.strerror}")
            running.log_failed = True
        text = line.decode("utf-8", "replace").rstrip("\r")
        running.last_words.append(text)
        self._console.output(running.process.name, text)

    def _show_last_words(self, running: _Running) -> None:
        for line in running.last_words:
            self._console.event(running.process.name, f"  {line}")


def _describe(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _kill_family(pid: int) -> None:
    """End the whole session that a process led, whether or not it is still alive itself."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
