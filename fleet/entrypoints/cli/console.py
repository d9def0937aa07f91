"""What people and scripts see: results on stdout, progress and errors on stderr, JSON where it was asked for.

A result is always one JSON-ready document with stable keys; its text form is only another view of it. Nothing but the
result is ever written to stdout, so `V=$(modelfleet push ...)` is safe.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich import box
from rich.console import Console as RichConsole
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from fleet.entrypoints.cli.errors import CommandError

Advance = Callable[[int], None]


class Console:
    """Where a command's words go."""

    def __init__(self, *, as_json: bool, out: TextIO, err: TextIO) -> None:
        self._as_json = as_json
        self._out = out
        self._err = err

    @property
    def as_json(self) -> bool:
        """Whether results are JSON."""
        return self._as_json

    def result(self, document: object, *lines: str) -> None:
        """The outcome of a command: `document` as JSON, or `lines` as text."""
        text = json.dumps(document, indent=2, sort_keys=True) if self._as_json else "\n".join(lines)
        if text:
            print(text, file=self._out, flush=True)

    def event(self, document: object, line: str) -> None:
        """One of many outcomes of a command that follows something: one line each, JSON or text."""
        print(json.dumps(document, sort_keys=True) if self._as_json else line, file=self._out, flush=True)

    def table(
        self,
        document: object,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        empty: str = "",
        above: Sequence[str] = (),
    ) -> None:
        """A list: `document` as JSON, or a table beneath some lines; `empty` is said instead of a table without rows."""
        if self._as_json or not rows:
            self.result(document, *above, *([empty] if empty else ()))
            return
        for line in above:
            print(line, file=self._out)
        table = Table(box=box.SIMPLE_HEAD if self._out.isatty() else None, pad_edge=False, show_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text("" if cell is None else _printable(str(cell))) for cell in row))
        width = None if self._out.isatty() else 200
        RichConsole(file=self._out, width=width, highlight=False).print(table)

    def note(self, line: str) -> None:
        """Something worth knowing that is not the result."""
        print(line, file=self._err, flush=True)

    def error(self, error: CommandError) -> None:
        """Why a command failed, in one line; for people, a caret beneath what could not be read follows."""
        line, *pointed = error.message.split("\n") if error.message.endswith("^") else [error.message]
        message = " ".join(line.split())
        if self._as_json:
            print(json.dumps({"error": {"code": error.code, "message": message}}), file=self._err, flush=True)
        else:
            print(f"modelfleet: {message}", file=self._err, flush=True)
            for part in pointed:
                print(f"  {part}", file=self._err, flush=True)

    @contextmanager
    def transfer(self, name: str, total_bytes: int, sent_bytes: int) -> Iterator[Advance]:
        """Progress of one file: a bar on a terminal, a line before and after elsewhere. Yields what adds sent bytes."""
        if self._err.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            with Progress(*columns, console=RichConsole(file=self._err)) as progress:
                task = progress.add_task(name, total=total_bytes, completed=sent_bytes)
                yield lambda count: progress.advance(task, count)
        else:
            resumed = f", resumed at {sent_bytes:,}" if sent_bytes else ""
            self.note(f"uploading {name} ({total_bytes:,} bytes{resumed})")
            yield lambda _: None


def describe(document: Mapping[str, object]) -> list[str]:
    """A mapping as aligned lines of text; nested values as compact JSON."""
    width = max((len(key) for key in document), default=0)
    return [f"{key:{width}}  {_plain(value)}" for key, value in document.items()]


def _printable(text: str) -> str:
    """Names come from files that anyone may have made: what would steer a terminal, or is no text, is escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def _plain(value: object) -> str:
    if value is None or value == "":
        return "-"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
