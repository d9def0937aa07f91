"""Runs the steps of the benchmark, each in a fresh process, and proves every result by its sha256.

Codecs that are commands (zstd, hdiffpatch, xdelta3) take part where they are installed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
# bsdiff4 needs 17 times the old file, and minutes.
BSDIFF4_LARGEST_BYTES: Final = 512_000_000
# Counting symbols takes ten times as long as coding them.
ENTROPY_LARGEST_BYTES: Final = 512_000_000
TIMEOUT_S: Final = 3_600

# Name -> (program, words to create, words to apply). `{old}`, `{new}` and `{patch}` are replaced.
COMMANDS: Final[Mapping[str, tuple[str, Sequence[str], Sequence[str]]]] = {
    "zstd-patch": (
        "zstd",
        ("-q", "-f", "--long=31", "-3", "--patch-from={old}", "{new}", "-o", "{patch}"),
        ("-q", "-f", "-d", "--long=31", "--patch-from={old}", "{patch}", "-o", "{new}"),
    ),
    "hdiffpatch": (
        "hdiffz",
        ("-f", "-s-64", "-c-zstd-21", "{old}", "{new}", "{patch}"),
        ("-f", "{old}", "{patch}", "{new}"),
    ),
    "xdelta3": (
        "xdelta3",
        ("-f", "-e", "-9", "-s", "{old}", "{new}", "{patch}"),
        ("-f", "-d", "-s", "{old}", "{patch}", "{new}"),
    ),
    # The best that a general codec makes of the new file alone: what a full download costs.
    "full-zstd19": (
        "zstd",
        ("-q", "-f", "-19", "{new}", "-o", "{patch}"),
        ("-q", "-f", "-d", "{patch}", "-o", "{new}"),
    ),
}
_APPLIERS: Final = {"hdiffz": "hpatchz"}


@dataclass(frozen=True)
class Measured:
    """One codec on one pair.

    `create_cpu_s` is of making the patch alone, for every codec; `create_s` is wall time and, for our own codecs, has the
    proof by decoding in it, without which nothing is published. `apply_start_cpu_s` is the part of `apply_cpu_s` that goes
    into starting: Python that reads its modules takes as long as 20 MB of patch.
    """

    patch_bytes: int
    create_cpu_s: float
    create_s: float
    create_peak_rss_mib: float
    apply_s: float
    apply_cpu_s: float
    apply_start_cpu_s: float
    apply_peak_rss_mib: float
    sha256_ok: bool

    def encode(self) -> dict[str, object]:
        """As JSON has it, with figures as exact as they are worth."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Pair:
    """Two files, and what kind of change is between them."""

    name: str
    kind: str
    old: Path
    new: Path


class StepFailedError(Exception):
    """A codec could not make or apply its patch."""


def installed() -> list[str]:
    """The baselines that are commands and can run here."""
    return [
        name
        for name, (program, _create, _apply) in COMMANDS.items()
        if shutil.which(program) and shutil.which(_APPLIERS.get(program, program))
    ]


def digest_of(path: Path) -> str:
    """The file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_module(module: str, *words: str | Path) -> str:
    """What a module says in a fresh interpreter; raises StepFailedError when it fails or takes hours."""
    command = [sys.executable, "-m", module, *map(str, words)]
    said = " ".join([module, *(str(word) for word in words[:2])])
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise StepFailedError(f"{said}: took longer than {TIMEOUT_S} s") from error
    if ran.returncode:
        raise StepFailedError(f"{said}: exit {ran.returncode}: {ran.stderr.strip()[-300:]}")
    return ran.stdout


@contextmanager
def compiled_modules(scratch: Path) -> Iterator[None]:
    """Steps find their modules compiled, as an installed program does, also where the environment keeps Python from it.

    Reading numpy's and our own modules takes longer than making the patch of a small file.
    """
    before = {name: os.environ.get(name) for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(scratch / "compiled")
    try:
        old, new = scratch / "first.old", scratch / "first.new"
        old.write_bytes(b"old")
        new.write_bytes(b"new")
        for codec in ("tensor1", "bsdiff4"):
            measure(codec, Pair("first", "", old, new), scratch)
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def figures(module: str, *words: str | Path) -> dict[str, Any]:
    """The line of JSON that a module ends with; raises StepFailedError."""
    said = run_module(module, *words)
    try:
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise StepFailedError(f"{module}: expected a line of JSON, got {said[-100:]!r}") from error
    return found


def step(action: str, codec: str, *places: Path) -> dict[str, Any]:
    """One measured step; raises StepFailedError."""
    return figures("tests.bench.delta_process", action, codec, *places)


def measure(codec: str, pair: Pair, scratch: Path) -> tuple[Measured, dict[str, Any]]:
    """Create and apply with one of our own codecs or bsdiff4; also everything that creating said."""
    with _two_files(scratch, codec) as (patch, rebuilt):
        _warm(pair)
        made = step("create", codec, pair.old, pair.new, patch)
        applied = step("apply", codec, pair.old, patch, rebuilt)
        if codec != "bsdiff4" and pair.new.stat().st_size <= ENTROPY_LARGEST_BYTES:
            made |= figures("tests.bench.delta_entropy", pair.old, patch)
        measured = Measured(
            patch.stat().st_size,
            made.get("encode_cpu_s", made["cpu_s"]),
            made["wall_s"],
            made["peak_rss_mib"],
            applied["wall_s"],
            applied["cpu_s"],
            applied.get("start_cpu_s", 0.0),
            applied["peak_rss_mib"],
            digest_of(rebuilt) == digest_of(pair.new),
        )
        return measured, made


def _warm(pair: Pair) -> None:
    """Have the system read both files, so that nobody's time to create is that of a disk."""
    for path in (pair.old, pair.new):
        digest_of(path)


@contextmanager
def _two_files(scratch: Path, codec: str) -> Iterator[tuple[Path, Path]]:
    """Where a patch and what it makes are written; both are gone in the end."""
    patch, rebuilt = scratch / f"{codec}.patch", scratch / f"{codec}.out"
    try:
        yield patch, rebuilt
    finally:
        patch.unlink(missing_ok=True)
        rebuilt.unlink(missing_ok=True)


def measure_command(name: str, pair: Pair, scratch: Path) -> Measured:
    """Create and apply with a baseline that is a command; raises StepFailedError, also where it says that it is done and is not."""
    program, create_words, apply_words = COMMANDS[name]
    with _two_files(scratch, name) as (patch, rebuilt):
        _warm(pair)
        made = _run(program, create_words, {"old": pair.old, "new": pair.new, "patch": patch})
        applied = _run(_APPLIERS.get(program, program), apply_words, {"old": pair.old, "new": rebuilt, "patch": patch})
        for path in (patch, rebuilt):
            if not path.is_file():
                raise StepFailedError(f"{program}: exit 0, and no {path.name}")
        return Measured(
            patch.stat().st_size,
            made[1],
            made[0],
            made[2],
            applied[0],
            applied[1],
            0.0,
            applied[2],
            digest_of(rebuilt) == digest_of(pair.new),
        )


def _run(program: str, words: Sequence[str], places: Mapping[str, Path]) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak MiB) of a command; raises StepFailedError."""
    started = time.perf_counter()
    command = [program, *(word.format(**places) for word in words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    overdue = threading.Timer(TIMEOUT_S, process.kill)
    overdue.start()
    try:
        _pid, status, usage = os.wait4(process.pid, 0)
    finally:
        overdue.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise StepFailedError(f"{program}: exit {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
