"""The tools that run the tests, tested: a tool that says "passed" too easily would hide everything else."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests import run
from tests.toolchain.postgres import start_postgres

ROOT = Path(__file__).resolve().parents[2]


def _pytest(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Pytest in a process of its own, with the project's conftest, on the files of `folder`."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MODELFLEET_", "CI"))
    }
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"),
            *("-c", str(ROOT / "pyproject.toml"), str(folder), *arguments),
        ],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def skipping_tests(tmp_path: Path) -> Path:
    tmp_path.joinpath("test_skipping.py").write_text(
        "import pytest\n\ndef test_one():\n    pytest.skip('no such device')\n\ndef test_two():\n    pass\n"
    )
    return tmp_path


def test_skipped_test__outside_ci__is_only_skipped(skipping_tests: Path) -> None:
    ran = _pytest(skipping_tests)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed, 1 skipped" in ran.stdout


def test_skipped_test__in_ci__fails_and_says_why(skipping_tests: Path) -> None:
    ran = _pytest(skipping_tests, CI="true")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 failed, 1 passed" in ran.stdout
    assert "CI skips nothing: Skipped: no such device" in ran.stdout


def test_isolation__callers_own_settings__are_not_seen(tmp_path: Path) -> None:
    tmp_path.joinpath("test_home.py").write_text(
        "import os\n\ndef test_home():\n"
        "    from django.conf import settings\n"
        "    assert str(settings.MODELFLEET.home) == os.environ['MODELFLEET_HOME'] != '/nowhere'\n"
        "    assert settings.MODELFLEET.public_url != 'https://mine.example.org'\n"
    )
    ran = _pytest(tmp_path, MODELFLEET_HOME="/nowhere", MODELFLEET_PUBLIC_URL="https://mine.example.org")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_postgres__started_and_stopped__leaves_neither_process_nor_files() -> None:
    server = start_postgres()
    try:
        with psycopg.connect(host=str(server.directory), user="postgres", dbname="postgres") as connection:
            row = connection.execute("select current_setting('listen_addresses')").fetchone()
        assert row == ("",), "it must not listen on the network"
    finally:
        server.stop()
    assert server.process.poll() is not None
    assert not server.directory.exists()
    server.stop()


def test_plan__all_folders__runs_server_on_both_databases_and_processes_by_themselves() -> None:
    tiers = run.plan(["contract", "domain", "e2e", "server", "ui"])
    assert [(tier.name, tier.folders, tier.parallel) for tier in tiers] == [
        ("fast", ("contract", "domain"), True),
        ("server-sqlite", ("server",), True),
        ("server-postgres", ("server",), True),
        ("ui", ("ui",), False),
        ("e2e", ("e2e",), True),
    ]


def test_plan__one_folder__runs_that_one() -> None:
    assert [tier.name for tier in run.plan(["ui"])] == ["ui"]


def test_runner__pytest_that_breaks_down__counts_as_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "REPORTS", tmp_path)
    outcome = run.run(run.Tier("broken", ("no-such-folder",), parallel=False), [])
    assert (outcome.passed, outcome.failed) == (0, 1)
    assert outcome.remark == "pytest ended with 4"
