"""Logins, exit codes, one-line errors: what holds for every command."""

import json
import stat
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from fleet.entrypoints.cli import uploads
from fleet.entrypoints.cli.__main__ import MODULES, build_parser
from fleet.entrypoints.cli.logins import config_path
from fleet.entrypoints.cli.polling import poll
from fleet.entrypoints.cli.quantities import parse_duration_s, parse_model_version, parse_pair, show_bytes
from tests.cli.conftest import CommandLine
from tests.fakes.release_server import TOKEN, ReleaseServerSimulator


def test_login__token_that_works__stored_for_its_owner_and_used(server: ReleaseServerSimulator, tmp_path: Path) -> None:
    modelfleet = CommandLine({"HOME": str(tmp_path)})
    modelfleet.ok("login", f"{server.url}/", "--token", TOKEN)
    path = config_path(modelfleet.environment)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert modelfleet.ok("whoami") == {"url": server.url, "name": "ci", "scopes": ["admin"]}


def test_login__token_that_does_not_work__not_stored(server: ReleaseServerSimulator, tmp_path: Path) -> None:
    modelfleet = CommandLine({"HOME": str(tmp_path)})
    ran = modelfleet("login", server.url, "--token", "mf_wrong")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "expected a valid token" in ran.err
    assert not config_path(modelfleet.environment).exists()


def test_stored_token__other_server__not_sent_there(server: ReleaseServerSimulator, tmp_path: Path) -> None:
    modelfleet = CommandLine({"HOME": str(tmp_path)})
    modelfleet.ok("login", server.url, "--token", TOKEN)
    with ReleaseServerSimulator().serving() as other:
        ran = modelfleet("whoami", "--url", other.url)
        assert ran.code == 1
        assert other.requests == []


def test_stored_login__readable_by_others__refused(server: ReleaseServerSimulator, tmp_path: Path) -> None:
    modelfleet = CommandLine({"HOME": str(tmp_path)})
    modelfleet.ok("login", server.url, "--token", TOKEN)
    config_path(modelfleet.environment).chmod(0o644)
    ran = modelfleet("whoami")
    assert ran.code == 1
    assert "mode 600" in ran.err


def test_stored_login__malformed__one_line(tmp_path: Path) -> None:
    modelfleet = CommandLine({"HOME": str(tmp_path)})
    path = config_path(modelfleet.environment)
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    path.write_text("url = [")
    ran = modelfleet("whoami")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "config.toml" in ran.err


def test_environment__beats_the_stored_login(
    modelfleet: CommandLine, server: ReleaseServerSimulator, tmp_path: Path
) -> None:
    path = config_path(modelfleet.environment)
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    path.write_text('url = "http://127.0.0.1:1"\ntoken = "mf_old"\n')
    assert modelfleet.ok("whoami")["url"] == server.url


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://nowhere.invalid", "ftp://x", "nonsense"])
def test_network__down_or_no_address__one_line(modelfleet: CommandLine, url: str) -> None:
    modelfleet.environment["MODELFLEET_URL"] = url
    ran = modelfleet("--json", "models", "list")
    assert (ran.code, ran.err.count("\n"), ran.out) == (1, 1, "")
    assert json.loads(ran.err)["error"]["code"] == "server_unreachable"


def test_server__not_modelfleet__said_so(modelfleet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReleaseServerSimulator, "answer", lambda *_: (502, b"<html>bad gateway</html>"))
    ran = modelfleet("models", "list")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "is it Modelfleet?" in ran.err


def test_next_page__on_another_host__token_not_sent_there(
    modelfleet: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link is followed by its path only; what is no path of the API ends the command."""
    link = {"next": "http://evil.invalid/steal", "results": []}
    monkeypatch.setattr(ReleaseServerSimulator, "answer", lambda *_: (200, link))
    ran = modelfleet("--json", "models", "list")
    assert json.loads(ran.err)["error"]["code"] == "answer_malformed"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["push"], ["rollout", "wait", "--timeout", "soon"], ["versions", "x"], [], ["--frob"]]
)
def test_usage__wrong__one_line_and_exit_code_1(modelfleet: CommandLine, words: list[str]) -> None:
    ran = modelfleet(*words)
    assert (ran.code, ran.err.count("\n"), ran.out) == (1, 1, "")
    assert "--help" in ran.err


def test_json_flag__before_or_after_the_command__same_result(modelfleet: CommandLine) -> None:
    assert modelfleet("--json", "whoami").json == modelfleet("whoami", "--json").json


def test_command_table__every_module__adds_what_the_table_says() -> None:
    registered = {}
    for module, names in MODULES.items():
        parser = build_parser([names[0]])
        registered[module] = set(parser._subparsers._group_actions[0].choices or ())  # type: ignore[union-attr]
    assert registered == {module: set(names) for module, names in MODULES.items()}


def test_module__command_that_signs_nothing__imports_no_signing_library() -> None:
    script = (
        "import sys; from fleet.entrypoints.cli.__main__ import run; run(['rollout', 'list'], {}, sys.stdout, sys.stderr);"
        "sys.exit(bool({'tuf', 'securesystemslib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode == 0


def test_module__run_as_a_program_with_closed_output__ends_quietly() -> None:
    command = f"{sys.executable} -m fleet.entrypoints.cli push --help | head -1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ran.returncode in {0, 1}
    assert ran.stderr == ""


def test_module__imported__brings_no_django() -> None:
    script = "import sys, fleet.entrypoints.cli.__main__; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("72h", 259_200), ("3d", 259_200), ("0", 0)]
)
def test_duration__written_by_people__read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1s", "1w", "1 h", "nan"])
def test_duration__anything_else__refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        parse_duration_s(text)


@pytest.mark.parametrize("text", ["vision.digits", "digits@1", "vision.digits@", "vision.digits@../1"])
def test_model_version__malformed__refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        parse_model_version(text)


def test_pair__without_key_or_value__refused_or_empty() -> None:
    assert parse_pair("a=b=c") == ("a", "b=c")
    assert parse_pair("a=") == ("a", "")
    with pytest.raises(ArgumentTypeError):
        parse_pair("=b")


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1_234, "1.2 kB"), (5_600_000, "5.6 MB"), (7 * 10**9, "7.0 GB")]
)
def test_bytes__shown__with_decimal_units(count: int, shown: str) -> None:
    assert show_bytes(count) == shown


def test_poll__nothing_found__asks_until_time_is_up_and_once_at_least() -> None:
    clock = iter([0.0, 0.0, 0.5, 1.0, 2.0])
    asked: list[int] = []
    assert poll(lambda: asked.append(1), timeout_s=1.0, clock=lambda: next(clock), pause=lambda _: None) is None
    assert len(asked) == 3
    assert poll(lambda: asked.append(1), timeout_s=0.0, pause=lambda _: None) is None
    assert len(asked) == 4


def test_upload_chunk__size__within_what_a_server_streams() -> None:
    assert uploads.CHUNK_BYTES <= 8 * 1024 * 1024
