"""Two conductors never act twice: real processes on both databases, one stopped or killed at the worst moment."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fleet.apps.rollouts.leadership import LEASE_S
from tests.embedded_broker import ROOT, wait_for
from tests.toolchain.postgres import PostgresUnavailableError, start_postgres

WITHIN_S = 120.0


class Installation:
    """A home with a database, and the processes that a test starts on it."""

    def __init__(self, home: Path, database_url: str | None) -> None:
        self.home = home
        self._started: list[subprocess.Popen[bytes]] = []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODELFLEET_")}
        self._environment = {**inherited, "MODELFLEET_HOME": str(home), "PYTHONUNBUFFERED": "1"}
        if database_url is not None:
            self._environment["MODELFLEET_DATABASE_URL"] = database_url

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            self._command(*arguments), env=self._environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, call: str) -> dict[str, Any]:
        """Call a function of the driver; returns the JSON that it printed."""
        printed = self.manage(*_shell(call))
        found: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
        return found

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.home / f"process-{len(self._started)}.log").open("wb") as log:
            process = subprocess.Popen(
                self._command(*arguments), env=self._environment, cwd=ROOT, stdout=log, stderr=log
            )
        self._started.append(process)
        return process

    def start_second(self) -> None:
        """A conductor as it runs; returns once it has acted, which it can when the lease of the first has ended."""
        log = self.home / f"process-{len(self._started)}.log"
        self.start("conductor")
        wait_for(lambda: "phase 1 complete" in log.read_text(), "the second conductor", LEASE_S + WITHIN_S)

    def stop(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()

    @staticmethod
    def _command(*arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), *arguments]


def _shell(call: str) -> tuple[str, ...]:
    return ("shell", "-v", "0", "-c", f"from tests.e2e import conductor_driver; conductor_driver.{call}")


@pytest.fixture(params=["sqlite", "postgres"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """One whose next tick completes a rollout."""
    with ExitStack() as ends:
        url = None
        if request.param == "postgres":
            try:
                postgres = start_postgres()
            except PostgresUnavailableError as error:
                pytest.skip(str(error))
            ends.callback(postgres.stop)
            url = postgres.url
        found = Installation(tmp_path / "home", url)
        ends.callback(found.stop)
        found.manage("prepare", "--verbosity", "0")
        found.ask("seed()")
        yield found


def _pause_first(installation: Installation, moment: str, tmp_path: Path) -> "subprocess.Popen[bytes]":
    """A conductor that has reached `moment` and waits there."""
    first = installation.start(*_shell(f"conduct_until({moment!r}, {str(tmp_path)!r})"))
    wait_for((tmp_path / "there").exists, f"the first conductor, {moment}", WITHIN_S)
    return first


def test_conductors__first_is_stopped_after_it_decided__the_second_acts_and_the_first_writes_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    first = _pause_first(installation, "decided", tmp_path)
    first.send_signal(signal.SIGSTOP)
    installation.start_second()
    (tmp_path / "go").touch()
    first.send_signal(signal.SIGCONT)
    wait_for((tmp_path / "result").exists, "the first conductor", WITHIN_S)
    result = json.loads((tmp_path / "result").read_text())
    assert result["decisions"] == 0
    assert len(result["failures"]) == 1
    assert "expected to lead with token 1" in result["failures"][0]
    after = installation.ask("state()")
    assert (after["state"], after["actions"]) == ("completed", ["start", "complete"])


def test_conductors__first_is_killed_in_its_transaction__nothing_of_it_is_there_and_the_second_acts(
    installation: Installation, tmp_path: Path
) -> None:
    first = _pause_first(installation, "in the transaction", tmp_path)
    first.kill()
    first.wait()
    left = installation.ask("state()")
    assert (left["state"], left["actions"]) == ("running", ["start"])
    installation.start_second()
    assert installation.ask("state()")["actions"] == ["start", "complete"]
