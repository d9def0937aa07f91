"""Where the output of the supervised processes goes: all of it into log files, what matters also to the terminal."""

import re
import sys
from pathlib import Path
from typing import Final, TextIO

LOG_BYTES: Final = 5_000_000
LOGS_KEPT: Final = 3

_COLOURS: Final = (36, 35, 34, 32, 33, 96, 95, 94)
# Our own processes write `<time> LEVEL process logger: message`, granian `[LEVEL] message`, mosquitto `<time>: Error: ...`.
# Warnings of these two stay in the log: at each start they have some about a configuration that is as it should be.
_LEVEL: Final = re.compile(r"^(?:\S+Z (\w+) |\[(ERROR|CRITICAL)\] |\S+Z: (Error)\b)")
_LOUD: Final = frozenset({"WARNING", "WARN", "ERROR", "CRITICAL"})


class LogFile:
    """One process's log: a file that is put aside at 5 MB, three old ones kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        """Append a line; raises OSError when the disk is full."""
        if self._file.tell() + len(line) > LOG_BYTES:
            self._rotate()
        self._file.write(line + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(LOGS_KEPT, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            if newer.exists():
                newer.replace(older)
        self._file = self._path.open("ab", buffering=0)


class Console:
    """The terminal: life-cycle lines, warnings and errors of the processes, each with the name of its process."""

    def __init__(self, out: TextIO = sys.stdout, *, everything: bool = False) -> None:
        self._out = out
        self._everything = everything
        self._colours = out.isatty()
        self._names: list[str] = []
        self._was_loud: dict[str, bool] = {}

    def say(self, text: str) -> None:
        """A line of the supervisor's own."""
        self._print(text)

    def event(self, name: str, text: str) -> None:
        """Something that happened to a process."""
        self._print(f"{self._prefix(name)} {text}")

    def output(self, name: str, line: str) -> None:
        """A line that a process wrote; shown if it is a warning or an error, or the indented rest of one."""
        match = _LEVEL.match(line)
        if match:
            level = next(group for group in match.groups() if group)
            self._was_loud[name] = level.upper() in _LOUD
        elif not line.startswith("    "):
            self._was_loud[name] = False
        if self._everything or self._was_loud.get(name, False):
            self._print(f"{self._prefix(name)} {line}")

    def _prefix(self, name: str) -> str:
        if name not in self._names:
            self._names.append(name)
        text = f"{name:<9} |"
        if not self._colours:
            return text
        return f"\x1b[{_COLOURS[self._names.index(name) % len(_COLOURS)]}m{text}\x1b[0m"

    def _print(self, text: str) -> None:
        # The terminal may be gone (a closed window, a pipe that ended); that must not end the processes.
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except (OSError, ValueError):
            return
