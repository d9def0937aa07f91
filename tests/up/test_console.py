"""What reaches the log files and the terminal."""

import io
from pathlib import Path

import pytest

from fleet.entrypoints.up import console
from fleet.entrypoints.up.console import Console, LogFile

LOUD = [
    "2026-03-01T12:00:00.123Z WARNING ingest fleet.x: late",
    "2026-03-01T12:00:00.123Z ERROR   ingest fleet.x: broken",
    "[ERROR] Application callable raised an exception",
    "2026-11-20T21:54:59Z: Error: Address already in use",
]
QUIET = [
    "2026-03-01T12:00:00.123Z INFO    ingest fleet.x: fine",
    "[INFO] Starting granian (main PID: 1)",
    "[WARNING] Configuration allows spawning up to 64 Python threads",
    "2026-11-20T21:54:59Z: Warning: Mosquitto should not be run as root/administrator.",
    "a line of no known form",
]


@pytest.mark.parametrize("line", LOUD)
def test_output__warning_or_error__shown_with_the_process_name(line: str) -> None:
    terminal = io.StringIO()
    Console(terminal).output("ingest", line)
    assert terminal.getvalue() == f"ingest    | {line}\n"


@pytest.mark.parametrize("line", QUIET)
def test_output__anything_else__not_shown_unless_everything_is(line: str) -> None:
    quiet, everything = io.StringIO(), io.StringIO()
    Console(quiet).output("web", line)
    Console(everything, everything=True).output("web", line)
    assert quiet.getvalue() == ""
    assert line in everything.getvalue()


def test_output__traceback_of_an_error__follows_it() -> None:
    terminal = io.StringIO()
    shown = Console(terminal)
    for line in (LOUD[1], "    Traceback (most recent call last):", QUIET[0], "    indented, of the quiet line"):
        shown.output("ingest", line)
    assert terminal.getvalue().count("\n") == 2
    assert "Traceback" in terminal.getvalue()


def test_output__processes_take_turns__indented_lines_stay_with_their_own() -> None:
    terminal = io.StringIO()
    shown = Console(terminal)
    shown.output("ingest", LOUD[1])
    shown.output("web", QUIET[0])
    shown.output("ingest", "    the rest")
    assert "the rest" in terminal.getvalue()


def test_say__terminal_is_gone__nothing_happens() -> None:
    terminal = io.StringIO()
    shown = Console(terminal)
    terminal.close()
    shown.say("anyone there?")


def test_log_file__grows_beyond_its_size__is_put_aside_and_the_oldest_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LOG_BYTES", 100)
    log = LogFile(tmp_path / "logs" / "web.log")
    for number in range(20):
        log.write(b"%030d" % number)
    log.close()
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert names == ["web.log", "web.log.1", "web.log.2", "web.log.3"]
    kept = b"".join((tmp_path / "logs" / name).read_bytes() for name in reversed(names))
    assert kept == b"".join(b"%030d\n" % number for number in range(20 - kept.count(b"\n"), 20))
    assert all((tmp_path / "logs" / name).stat().st_size <= 100 for name in names)


def test_log_file__opened_again__goes_on_where_it_was(tmp_path: Path) -> None:
    for text in (b"first run", b"second run"):
        log = LogFile(tmp_path / "web.log")
        log.write(text)
        log.close()
    assert (tmp_path / "web.log").read_bytes() == b"first run\nsecond run\n"
