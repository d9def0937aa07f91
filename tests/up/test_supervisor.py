"""The supervisor with real processes: small ones, and patience measured in tenths of a second."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fleet.entrypoints.up.console import Console
from fleet.entrypoints.up.supervisor import Process, RestartPolicy, Supervisor
from tests.embedded_broker import wait_for

ROOT = Path(__file__).resolve().parents[2]
IMPATIENT = RestartPolicy(quick_s=5, first_delay_s=0.01, longest_delay_s=0.02, max_quick_crashes=3)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def shell(name: str, script: str, directory: Path) -> Process:
    return Process(name, ("/bin/sh", "-c", script), dict(os.environ), directory)


class Stage:
    """A supervisor with its logs and its terminal in a directory of its own."""

    def __init__(self, directory: Path, policy: RestartPolicy) -> None:
        self.directory = directory
        self.terminal = io.StringIO()
        self.changes = 0
        self.console = Console(self.terminal)
        self.supervisor = Supervisor(
            console=self.console, logs=directory / "logs", policy=policy, on_change=self._count
        )

    def _count(self) -> None:
        self.changes += 1

    async def start(self, name: str, script: str) -> None:
        await self.supervisor.start(shell(name, script, self.directory))

    async def until(self, condition: Callable[[], bool], within_s: float = 20.0) -> None:
        deadline_s = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline_s, self.terminal.getvalue()
            await asyncio.sleep(0.01)

    def text(self, name: str) -> str:
        path = self.directory / name
        return path.read_text() if path.exists() else ""


def run(directory: Path, play: Callable[[Stage], Awaitable[None]], policy: RestartPolicy = IMPATIENT) -> Stage:
    async def main() -> Stage:
        stage = Stage(directory, policy)
        try:
            await play(stage)
        finally:
            await stage.supervisor.stop(within_s=3)
        return stage

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("quick_crashes", "delay_s"), [(0, 0.5), (1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, None), (6, None)]
)
def test_restart_policy__quick_crashes_in_a_row__waits_longer_then_gives_up(
    quick_crashes: int, delay_s: float | None
) -> None:
    assert RestartPolicy().delay_s(quick_crashes) == delay_s


def test_restart_policy__many_crashes_allowed__pause_is_bounded() -> None:
    assert RestartPolicy(max_quick_crashes=100).delay_s(50) == RestartPolicy().longest_delay_s


def test_supervisor__process_is_killed__starts_it_again_and_says_so(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await stage.start("victim", "echo started >> starts; exec sleep 60")
        await stage.until(lambda: stage.text("starts").count("started") == 1)
        first = stage.supervisor.pids()["victim"]
        os.kill(first, signal.SIGKILL)
        await stage.until(lambda: stage.text("starts").count("started") == 2)
        assert stage.supervisor.pids()["victim"] != first

    stage = run(tmp_path, play)
    assert "ended with SIGKILL, starting it again" in stage.terminal.getvalue()
    # Started, ended, started: the note of pids is renewed each time.
    assert stage.changes == 3


def test_restart__again_and_again__is_no_crash(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await stage.start(
            "broker", "trap 'echo saved >> ends; exit 0' TERM; echo started >> starts; while :; do sleep 0.02; done"
        )
        for times in range(1, IMPATIENT.max_quick_crashes + 3):
            await stage.until(lambda times=times: stage.text("starts").count("started") == times)  # type: ignore[misc]
            stage.supervisor.restart("broker")
        await stage.until(lambda: stage.text("ends").count("saved") == IMPATIENT.max_quick_crashes + 2)
        await stage.until(lambda: "broker" in stage.supervisor.pids())
        assert not stage.supervisor.failed.done()

    assert "ended with" not in run(tmp_path, play).terminal.getvalue()


def test_supervisor__process_keeps_crashing__gives_up_with_its_last_words(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await stage.start("broken", "echo run >> runs; echo cannot open the database >&2; exit 7")
        error = await asyncio.wait_for(asyncio.shield(stage.supervisor.failed), 20)
        assert "broken ended 3 times" in str(error)
        assert "status 7" in str(error)

    stage = run(tmp_path, play)
    assert stage.text("runs").count("run") == 3
    assert "cannot open the database" in stage.terminal.getvalue()


def test_supervisor__crashes_far_apart__never_gives_up(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await stage.start("moody", "echo run >> runs; sleep 0.1; exit 1")
        await stage.until(lambda: stage.text("runs").count("run") > IMPATIENT.max_quick_crashes + 1)
        assert not stage.supervisor.failed.done()

    run(tmp_path, play, RestartPolicy(quick_s=0.05, first_delay_s=0.01, max_quick_crashes=3))


def test_supervisor__process_crashes__leaves_nobody_of_its_family(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await stage.start("parent", "sleep 60 & echo $! >> children; [ $(wc -l < children) -gt 1 ] && sleep 60; exit 1")
        await stage.until(lambda: len(stage.text("children").split()) == 2)
        first, second = (int(pid) for pid in stage.text("children").split())
        await stage.until(lambda: not alive(first))
        assert alive(second)

    stage = run(tmp_path, play)
    wait_for(lambda: not any(alive(int(pid)) for pid in stage.text("children").split()), "the grandchildren's end")


def test_stop__processes_that_listen__end_by_themselves_with_the_last_one_last(tmp_path: Path) -> None:
    script = "trap 'echo {name} >> ends; exit 0' TERM; echo {name} >> ready; while :; do sleep 0.05; done"

    async def play(stage: Stage) -> None:
        for name in ("broker", "web", "worker"):
            await stage.start(name, script.format(name=name))
        await stage.until(lambda: len(stage.text("ready").split()) == 3)
        await stage.supervisor.stop(last="broker")

    stage = run(tmp_path, play)
    ends = stage.text("ends").split()
    assert sorted(ends) == ["broker", "web", "worker"]
    assert ends[-1] == "broker"
    assert "killed" not in stage.terminal.getvalue()


def test_stop__process_that_ignores_it__is_killed_in_time(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await stage.start("deaf", "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done")
        await stage.until(lambda: stage.text("pid") != "")
        began_s = time.monotonic()
        await stage.supervisor.stop(within_s=1)
        assert time.monotonic() - began_s < 20, "it would run for ever"

    stage = run(tmp_path, play)
    assert not alive(int(stage.text("pid")))
    assert "was killed" in stage.terminal.getvalue()


def test_stop__while_a_process_waits_for_its_next_start__does_not_start_it(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await stage.start("crashed", "echo run >> runs; exit 1")
        await stage.until(lambda: "starting it again" in stage.terminal.getvalue())
        began_s = time.monotonic()
        await stage.supervisor.stop(within_s=5)
        assert time.monotonic() - began_s < 20, "the next start is 30 s away"

    stage = run(tmp_path, play, RestartPolicy(first_delay_s=30))
    assert stage.text("runs").count("run") == 1


def test_supervisor__is_killed_itself__the_kernel_ends_its_processes(tmp_path: Path) -> None:
    program = tmp_path / "supervise.py"
    program.write_text(
        "import asyncio, os, pathlib\n"
        "from fleet.entrypoints.up.console import Console\n"
        "from fleet.entrypoints.up.supervisor import Process, Supervisor\n"
        "async def main():\n"
        f"    here = pathlib.Path({str(tmp_path)!r})\n"
        "    supervisor = Supervisor(console=Console(), logs=here / 'logs')\n"
        "    script = 'echo $$ > pid; exec sleep 60'\n"
        "    await supervisor.start(Process('child', ('/bin/sh', '-c', script), dict(os.environ), here))\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n",
    )
    process = subprocess.Popen([sys.executable, program], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", "the child")
        child = int((tmp_path / "pid").read_text())
        assert alive(child)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not alive(child), "the child's end")


def test_supervisor__disk_is_full__process_goes_on_and_it_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "chatty.log").symlink_to("/dev/full")

    async def play(stage: Stage) -> None:
        await stage.start("chatty", "for n in 1 2 3 4 5; do echo line $n; done; echo done > done; exec sleep 60")
        await stage.until(lambda: stage.text("done") != "")
        await stage.until(lambda: "log cannot be written" in stage.terminal.getvalue())

    stage = run(tmp_path, play)
    assert stage.terminal.getvalue().count("its log cannot be written: No space left on device") == 1


def test_supervisor__output_without_line_ends__is_read_all_the_same(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        await stage.start("endless", "head -c 300000 /dev/zero | tr '\\0' x; echo > done; exec sleep 60")
        await stage.until(lambda: stage.text("done") != "")

    stage = run(tmp_path, play)
    assert len((stage.directory / "logs" / "endless.log").read_bytes()) >= 300_000


def test_start__no_such_program__says_so(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        with pytest.raises(FileNotFoundError):
            await stage.supervisor.start(Process("absent", ("/no/such/program",), {}, tmp_path))

    run(tmp_path, play)
