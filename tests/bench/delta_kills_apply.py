"""Kills of `modelfleet delta apply`: after each, NEW must be as it was before or the whole new file, whatever the moment.

Half of the moments are drawn from a whole run, half from the time in which the result is written. Nothing is resumed: a
run that is killed begins anew, and a last one that nobody kills must make the new file.
"""

import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

BEFORE = b"what was there before"
WITHIN_S = 300.0


@dataclass
class Tally:
    """What the runs showed."""

    kills: int = 0
    wrong_results: int = 0
    kills_while_writing: int = 0
    ended_before_the_kill: int = 0

    def report(self) -> dict[str, int]:
        return asdict(self)


class Target:
    """A place for the new file, with something in it."""

    def __init__(self, old: Path, patch: Path, new_sha256: str, directory: Path) -> None:
        self._words = ("delta", "apply", str(old), str(patch), str(directory / "new"))
        self._new_sha256 = new_sha256
        self._directory = directory
        self._new = directory / "new"
        self._new.write_bytes(BEFORE)

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "fleet.entrypoints.cli", *self._words]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def is_whole(self) -> bool:
        return sha256(self._new.read_bytes()).hexdigest() == self._new_sha256

    def is_as_before(self) -> bool:
        return self._new.read_bytes() == BEFORE

    def is_being_written(self) -> bool:
        return any(path != self._new for path in self._directory.iterdir())

    def clear(self) -> None:
        for path in self._directory.iterdir():
            path.unlink()
        self._new.write_bytes(BEFORE)


def measure(target: Target, dice: random.Random, kills: int) -> Tally:
    """Start and kill until that many have been killed; raises SystemExit where an uncut run does not make the new file."""
    tally = Tally()
    start_s, writing_s = _uncut(target)
    while tally.kills < kills:
        target.clear()
        while_writing = dice.random() < 0.5
        after_s = dice.uniform(0.0, writing_s if while_writing else start_s + writing_s)
        with target.start() as process:
            _wait(process, target, after_s, while_writing=while_writing)
            process.send_signal(signal.SIGKILL)
            ended = process.wait(WITHIN_S) != -signal.SIGKILL
        tally.ended_before_the_kill += ended
        tally.kills += not ended
        tally.kills_while_writing += not ended and target.is_being_written()
        tally.wrong_results += not (target.is_whole() or (target.is_as_before() and not ended))
    _uncut(target)
    return tally


def _uncut(target: Target) -> tuple[float, float]:
    """Seconds until the result is begun, and until it is there, when nobody kills."""
    target.clear()
    began_at = time.monotonic()
    with target.start() as process:
        _wait(process, target, 0.0, while_writing=True)
        writing_at = time.monotonic()
        code = process.wait(WITHIN_S)
    if code or not target.is_whole():
        raise SystemExit(f"expected the new file from a run that nobody killed, got exit {code}")
    return writing_at - began_at, time.monotonic() - writing_at


def _wait(process: "subprocess.Popen[bytes]", target: Target, after_s: float, *, while_writing: bool) -> None:
    """Until the moment has come, or the process has ended."""
    until = time.monotonic() + WITHIN_S
    while while_writing and not target.is_being_written() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.0005)
    at = time.monotonic() + after_s
    while time.monotonic() < at and process.poll() is None:
        time.sleep(0.0005)
