"""Kills whoever applies patches: `python -m tests.bench.delta_kills --json OUT [--kills 750] [--mib 24]`.

A third of the kills hit `modelfleet delta apply` (see `delta_kills_apply`), a third a device whose patch is applied while it
comes over HTTP, and a third one that applies its patch in place. Each run of these is a
device that is killed (SIGKILL, it and its child) several times at random moments and then left alone; it must end with the
new file's digest. After each kill, what is on disk says how many blocks had been made, and the next life says at which
it goes on: the difference is what is made twice.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from device_client.adapters.patching import in_place, journal
from device_client.adapters.patching.files import DiskFolder, read_only
from device_client.adapters.patching.journal import Mark
from device_client.wire.tensor1 import Checkpoint
from device_client.wire.tensor1.decoder import read_header, read_prologue
from device_client.wire.tensor1.pieces import blocks
from tests.bench.delta_kills_apply import Target
from tests.bench.delta_kills_apply import measure as measure_apply
from tests.delta.patches import make, weights
from tests.fakes.update_server import UpdateServerSimulator

BLOCK_BYTES = 64 << 10
KILLS_PER_RUN = 5
EARLY_SHARE = 0.1  # of the kills hit a device that has not begun to write
MARK_BYTES = len(Mark(Checkpoint(0, 0, 0)).pack())
WAYS = ("stream", "in_place")
APPLY = "apply"
WITHIN_S = 300.0
GOES_ON = re.compile(r"a patch goes on at its byte \d+, block (\d+)")


@dataclass
class Tally:
    """What the runs of one way showed."""

    runs: int = 0
    kills: int = 0
    wrong_digests: int = 0
    repeated_blocks: list[int] = field(default_factory=list)  # by kill
    killed_at: list[float] = field(default_factory=list)  # share of the blocks that had been made

    def report(self) -> dict[str, Any]:
        deciles = [sum(int(share * 10) == part for share in self.killed_at) for part in range(10)]
        return {
            "runs": self.runs,
            "kills": self.kills,
            "wrong_digests": self.wrong_digests,
            "most_blocks_repeated": max(self.repeated_blocks, default=0),
            "kills_that_repeated_a_block": sum(count > 0 for count in self.repeated_blocks),
            "kills_by_tenth_of_the_file": deciles,
        }


class Pair:
    """Two files and their patch on disk, and on a server."""

    start_s = in_place_s = 0.0  # how long a device takes until it writes, and then

    def __init__(self, directory: Path, server: UpdateServerSimulator, mib: float) -> None:
        count = int(mib * 2**18)
        before = weights(1, count)
        after = (before + np.float32(1e-3) * weights(2, count)).astype(np.float32)
        words = " ".join(random.Random(5).choices(["defect", "scratch", "dent", "none"], k=count // 8)).encode()
        old, new = before.tobytes(), words + after.tobytes()
        patch, _ = make(old, new, block_bytes=BLOCK_BYTES)
        self.old, self.patch = directory / "old", directory / "patch"
        self.old.write_bytes(old)
        self.patch.write_bytes(patch)
        header = read_header(read_only(self.patch))
        instructions = read_prologue(read_only(self.patch), header).instructions
        self.ends = [block.offset + block.length for block in blocks(instructions, header.block_bytes)]
        digests = {
            name: sha256(content).hexdigest() for name, content in (("old", old), ("new", new), ("patch", patch))
        }
        server.blobs[digests["patch"]] = patch
        self.new_sha256 = digests["new"]
        self.patch_sha256 = digests["patch"]
        self.told = {
            "patch": str(self.patch),
            "patch_bytes": len(patch),
            "new_bytes": len(new),
            "url": f"{server.url}/device/v1/blobs/{digests['patch']}?ticket=good",
            **{f"{name}_sha256": digest for name, digest in digests.items()},
        }


class Device:
    """One run."""

    def __init__(self, pair: Pair, way: str, directory: Path) -> None:
        self.pair, self.way = pair, way
        self.work = directory / "work"
        self.old = directory / "old"
        shutil.copyfile(pair.old, self.old)
        self.work.mkdir()

    @contextmanager
    def life(self) -> Iterator["subprocess.Popen[str]"]:
        told = {**self.pair.told, "way": self.way, "old": str(self.old), "work": str(self.work)}
        command = [sys.executable, "-m", "tests.bench.delta_kills_process", json.dumps(told)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def made(self) -> int:
        """How many blocks are made, by what lies on disk."""
        if self.way == "stream":
            output = self.work / "output"
            size = output.stat().st_size if output.exists() else 0
            return sum(end <= size for end in self.pair.ends)
        if not (self.work / "output").exists():
            return 0
        folder = DiskFolder(self.work)
        marks = journal.PatchJournal(folder.open(journal.NAME), bytes.fromhex(self.pair.patch_sha256)).marks
        synced = [mark.point for mark in marks if mark.synced]
        redo = in_place._Redo(folder.open(in_place.REDO))
        redo.found(synced[-1].output_offset if synced else 0)
        return redo.made[-1].point.block if redo.made else synced[-1].block if synced else 0

    def has_marks(self, count: int) -> Callable[[], bool]:
        """Whether the journal has more than so many blocks."""
        marks = self.work / journal.NAME
        return lambda: marks.exists() and marks.stat().st_size > count * MARK_BYTES

    def is_writing_for(self, seconds: float) -> Callable[[], bool]:
        """Whether blocks have been made in place for so long in this life."""
        redo, output, born_ns = self.work / in_place.REDO, self.work / "output", time.time_ns()
        began_at: float | None = None

        def so() -> bool:
            nonlocal began_at
            if began_at is None and output.exists() and redo.exists() and redo.stat().st_mtime_ns > born_ns:
                began_at = time.monotonic()
            return began_at is not None and time.monotonic() - began_at >= seconds

        return so

    def digest(self) -> str:
        with (self.work / "output").open("rb") as file:
            return sha256(file.read()).hexdigest()


def kill_once(device: Device, dice: random.Random, lives_left: int) -> int | None:
    """One life that ends by SIGKILL at a random moment; the block at which it had begun, None if it ended by itself."""
    if dice.random() < EARLY_SHARE:
        due = after(dice.uniform(0.0, device.pair.start_s))
    elif device.way == "stream":
        made, total = device.made(), len(device.pair.ends)
        due = device.has_marks(made + dice.randrange(max(1, 2 * (total - made) // (lives_left + 1))))
    else:
        due = device.is_writing_for(dice.uniform(0.0, 2 * device.pair.in_place_s / (lives_left + 1)))
    with device.life() as process:
        until = time.monotonic() + WITHIN_S
        while process.poll() is None and not due() and time.monotonic() < until:
            time.sleep(0.0005)
        if process.poll() is not None:
            return None
        os.killpg(process.pid, signal.SIGKILL)
        return began(process)


def after(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since now."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def began(process: "subprocess.Popen[str]") -> int:
    """At which block a life began, by its log."""
    found = GOES_ON.search(process.stdout.read() if process.stdout is not None else "")
    return int(found[1]) if found else 0


def run(pair: Pair, way: str, dice: random.Random, tally: Tally, kills: int, directory: Path) -> None:
    """One device, killed `kills` times at most."""
    device = Device(pair, way, directory)
    made: list[int] = []
    for done in range(kills):
        before = kill_once(device, dice, kills - done)
        if before is None:
            break
        settle(device)
        if made and before:
            tally.repeated_blocks.append(made[-1] - before)
        made.append(device.made())
        tally.kills += 1
        tally.killed_at.append(min(made[-1] / len(pair.ends), 0.999))
    with device.life() as process:
        last = began(process)
        if process.wait(WITHIN_S) != 0:
            raise SystemExit(f"expected a device that ends well, got {process.returncode}")
    if made:
        tally.repeated_blocks.append(made[-1] - last)
    tally.runs += 1
    tally.wrong_digests += device.digest() != pair.new_sha256


def settle(device: Device) -> None:
    """The group was killed; wait until its files are nobody's any more."""
    lock = device.work / "lock"
    if lock.exists():
        import fcntl

        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def time_uncut(pair: Pair, way: str, directory: Path) -> None:
    """One life that nobody kills: when it begins to write, and for how long it does."""
    device = Device(pair, way, directory)
    began_at = time.monotonic()
    writing_at = None
    with device.life() as process:
        while process.poll() is None:
            if writing_at is None and (device.work / "output").exists():
                writing_at = time.monotonic()
            time.sleep(0.0005)
    if device.digest() != pair.new_sha256 or writing_at is None:
        raise SystemExit("expected the new file without any kill, got another")
    pair.start_s = writing_at - began_at
    pair.in_place_s = time.monotonic() - writing_at


def measure(kills: int, mib: float, seed: int) -> dict[str, Any]:
    """The whole benchmark."""
    dice = random.Random(seed)
    each = kills // (len(WAYS) + 1)
    tallies = {way: Tally() for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="mf-kills-") as place, UpdateServerSimulator().serving() as server:
        directory = Path(place)
        pair = Pair(directory, server, mib)
        for way, tally in tallies.items():
            time_uncut(pair, way, Path(tempfile.mkdtemp(dir=directory)))
            while tally.kills < each:
                here = Path(tempfile.mkdtemp(dir=directory))
                left = min(KILLS_PER_RUN, each - tally.kills)
                run(pair, way, dice, tally, left, here)
                shutil.rmtree(here)
        target = Target(pair.old, pair.patch, pair.new_sha256, Path(tempfile.mkdtemp(dir=directory)))
        applied = measure_apply(target, dice, each)
    return {
        "blocks": len(pair.ends),
        "block_bytes": BLOCK_BYTES,
        **{way: tally.report() for way, tally in tallies.items()},
        APPLY: applied.report(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--kills", type=int, default=750)
    parser.add_argument("--mib", type=float, default=24.0, help="size of the files")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    figures = measure(options.kills, options.mib, options.seed)
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    bad = [way for way in WAYS if figures[way]["wrong_digests"] or figures[way]["most_blocks_repeated"] > 1]
    if figures[APPLY]["wrong_results"]:
        bad.append(APPLY)
    if bad:
        raise SystemExit(f"expected right files and at most one block made twice, got otherwise: {bad}")


if __name__ == "__main__":
    main()
