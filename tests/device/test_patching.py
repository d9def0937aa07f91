"""`ports.Patcher`: the child process and the one in this process say the same of good patches, bad ones, and cut ones."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import bsdiff4
import numpy as np
import pytest

from device_client.adapters.patch import ONE_THREAD, STREAM_MEMORY_BYTES, ChildPatcher
from device_client.core.errors import CancelledError, KilledError, PatchError, TransferError
from device_client.ports import Patcher, PatchJob
from device_client.wire.delta import Codec
from tests.delta.patches import make, weights
from tests.device.rig import InlinePatcher
from tests.fakes.update_server import UpdateServerSimulator, sha256

BLOCK = 16 << 10
PATCHERS = pytest.mark.parametrize("patcher", [ChildPatcher(), InlinePatcher()], ids=["child", "inline"])


def pair() -> tuple[bytes, bytes]:
    """Two files of half a mebibyte: numbers that moved a little, and text that an LZMA stream codes."""
    old = weights(1, 96, 1024)
    new = (old + 1e-3 * weights(2, 96, 1024)).astype(np.float32)
    words = " ".join(random.Random(5).choices(["defect", "scratch", "dent", "none", "unknown"], k=40_000)).encode()
    return old.tobytes(), new.tobytes() + words


OLD, NEW = pair()
PATCH, _ = make(OLD, NEW, block_bytes=BLOCK)


def job(
    directory: Path, *, codec: Codec = Codec.TENSOR1, old: bytes = OLD, new: bytes = NEW, patch: bytes = PATCH
) -> PatchJob:
    (directory / "old").write_bytes(old)
    return PatchJob(
        codec, sha256(patch), len(patch), directory / "old", sha256(OLD), sha256(new), len(new), directory / "work"
    )


class Feed:
    """Serves a patch; can end early, once, as a cut cable does."""

    def __init__(self, patch: bytes = PATCH) -> None:
        self.patch = patch
        self.starts: list[int] = []
        self.cut_at: int | None = None

    def __call__(self, start: int) -> Iterator[bytes]:
        self.starts.append(start)
        return self._chunks(start)

    def _chunks(self, start: int) -> Iterator[bytes]:
        end = len(self.patch) if self.cut_at is None else self.cut_at
        for offset in range(start, end, 4_096):
            yield self.patch[offset : min(offset + 4_096, end)]
        if self.cut_at is not None:
            self.cut_at = None
            raise TransferError("cut")


def never() -> bool:
    return False


@PATCHERS
def test_whole__good_and_bad_patches__same_word(patcher: Patcher, tmp_path: Path) -> None:
    new = OLD[:1_000] + b"changed" + OLD[1_000:]
    (tmp_path / "patch").write_bytes(bsdiff4.diff(OLD, new))
    good = job(tmp_path, codec=Codec.BSDIFF4, new=new)
    patcher.apply(good, tmp_path / "patch")
    assert good.output.read_bytes() == new
    with pytest.raises(PatchError):
        patcher.apply(job(tmp_path, codec=Codec.BSDIFF4, new=new + b"x"), tmp_path / "patch")
    (tmp_path / "patch").write_bytes(b"BSDIFF40")
    with pytest.raises(PatchError):
        patcher.apply(good, tmp_path / "patch")


@PATCHERS
def test_stream__uninterrupted__the_new_file_and_no_byte_twice(patcher: Patcher, tmp_path: Path) -> None:
    feed, what = Feed(), job(tmp_path)
    assert patcher.stream(what, feed, never) == len(PATCH)
    assert what.output.read_bytes() == NEW
    assert (feed.starts, patcher.taken(what.work)) == ([0], len(PATCH))
    assert patcher.stream(what, feed, never) == 0, "nothing is left to do"
    assert feed.starts == [0, len(PATCH)]


@PATCHERS
def test_stream__cut_cable_again_and_again__goes_on_at_most_a_block_before(patcher: Patcher, tmp_path: Path) -> None:
    feed, what = Feed(), job(tmp_path)
    cuts = [50, 300, *range(5_000, len(PATCH), len(PATCH) // 6), len(PATCH) - 1]
    for cut in cuts:
        feed.cut_at = cut
        with pytest.raises(TransferError):
            patcher.stream(what, feed, never)
        assert patcher.taken(what.work) <= cut
        assert cut - patcher.taken(what.work) <= 2 * BLOCK
    patcher.stream(what, feed, never)
    assert what.output.read_bytes() == NEW
    assert feed.starts == sorted(feed.starts)
    assert len(set(feed.starts)) > len(cuts) // 2


@PATCHERS
@pytest.mark.parametrize(
    ("patch", "what"),
    [
        (make(NEW, OLD)[0], {}),
        (PATCH[:-5] + b"\0" * 5, {}),
        (PATCH + b"\0", {}),
        (b"tensor1\nand no more", {}),
        (b"", {}),
        (PATCH, {"old": OLD[:-1] + b"x"}),
        (PATCH, {"new": NEW[:-1] + b"x"}),
    ],
    ids=["other patch", "damaged", "longer", "header only", "empty", "wrong base", "other file wanted"],
)
def test_stream__what_does_not_fit__patch_error(
    patcher: Patcher, tmp_path: Path, patch: bytes, what: dict[str, bytes]
) -> None:
    with pytest.raises((PatchError, TransferError)):
        patcher.stream(job(tmp_path, patch=patch, **what), Feed(patch), never)  # type: ignore[arg-type]


@PATCHERS
def test_stream__other_patch_after_an_interruption__noticed_in_its_first_block(
    patcher: Patcher, tmp_path: Path
) -> None:
    feed, what = Feed(), job(tmp_path)
    feed.cut_at = len(PATCH) // 2
    with pytest.raises(TransferError):
        patcher.stream(what, feed, never)
    held = patcher.taken(what.work)
    feed.patch = PATCH[:held] + random.Random(3).randbytes(len(PATCH) - held)
    with pytest.raises(PatchError):
        patcher.stream(what, feed, never)
    assert patcher.taken(what.work) == held
    assert NEW.startswith(what.output.read_bytes())


@PATCHERS
def test_stream__work_of_another_patch__begun_anew(patcher: Patcher, tmp_path: Path) -> None:
    other, _ = make(OLD, OLD[::-1], block_bytes=BLOCK)
    before = job(tmp_path, patch=other, new=OLD[::-1])
    feed = Feed(other)
    feed.cut_at = len(other) // 2
    with pytest.raises(TransferError):
        patcher.stream(before, feed, never)
    feed, what = Feed(), job(tmp_path)
    patcher.stream(what, feed, never)
    assert (feed.starts, what.output.read_bytes()) == ([0], NEW)


def test_stream__halted__ends_soon_and_keeps_what_was_made(tmp_path: Path) -> None:
    asked = 0

    def halted() -> bool:
        nonlocal asked
        asked += 1
        return asked > 20

    feed, what = Feed(), job(tmp_path)
    with pytest.raises(CancelledError):
        ChildPatcher().stream(what, feed, halted)
    held = ChildPatcher().taken(what.work)
    assert 0 < held < len(PATCH)
    ChildPatcher().stream(what, feed, never)
    assert (feed.starts, what.output.read_bytes()) == ([0, held], NEW)


def test_stream__child_killed_by_somebody__its_work_is_kept(tmp_path: Path) -> None:
    feed, what = Feed(), job(tmp_path)

    def killing(start: int) -> Iterator[bytes]:
        for number, chunk in enumerate(feed(start)):
            if number == 20:
                while not ChildPatcher().taken(what.work):
                    time.sleep(0.01)
                for child in Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
            yield chunk

    with pytest.raises(KilledError):
        ChildPatcher().stream(what, killing, never)
    held = ChildPatcher().taken(what.work)
    ChildPatcher().stream(what, feed, never)
    assert feed.starts == [0, held]
    assert held > 0
    assert what.output.read_bytes() == NEW


CHILD_THAT_TELLS = """
import atexit, sys
from device_client.adapters import patch_child
atexit.register(lambda: print(open("/proc/self/status").read(), file=sys.stderr))
sys.exit(patch_child.main())
"""


def test_child__file_of_many_blocks__less_than_48_mib_resident(tmp_path: Path) -> None:
    old = weights(1, 4, 1 << 20)
    new = (old + 1e-3 * weights(2, 4, 1 << 20)).astype(np.float32).tobytes()
    patch, _ = make(old.tobytes(), new)
    (tmp_path / "old").write_bytes(old.tobytes())
    told = {
        "way": "streamed", "codec": "tensor1", "old": str(tmp_path / "old"), "work": str(tmp_path / "work"),
        "patch_sha256": sha256(patch), "patch_bytes": len(patch), "old_sha256": sha256(old.tobytes()),
        "new_sha256": sha256(new), "new_bytes": len(new), "cpu_s": 60, "memory_bytes": STREAM_MEMORY_BYTES,
        "file_bytes": len(new) + (1 << 24),
    }  # fmt: skip
    command = [sys.executable, "-c", CHILD_THAT_TELLS, json.dumps(told)]
    done = subprocess.run(command, input=patch, capture_output=True, check=True, env={**os.environ, **ONE_THREAD})
    peak_kib = next(int(line.split()[1]) for line in done.stderr.decode().splitlines() if line.startswith("VmHWM"))
    assert peak_kib <= 48 * 1024
    assert (tmp_path / "work" / "output").read_bytes() == new


SMALL_DISK = 'mount -t tmpfs -o size=400k tmpfs "$1" && exec "$2" -m tests.bench.delta_kills_process "$3"'


def small_disks() -> bool:
    """Whether this user may mount a small file system of its own."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not small_disks(), reason="needs a user that may mount a tmpfs in a namespace of its own")
def test_stream__disk_full_in_mid_block__no_space_and_not_the_patch_s_fault(tmp_path: Path) -> None:
    what = job(tmp_path)
    what.work.mkdir()
    with UpdateServerSimulator().serving() as server:
        server.blobs[what.patch_sha256] = PATCH
        told = {
            **{name: str(value) for name, value in what.__dict__.items()},
            "patch_bytes": what.patch_bytes,
            "new_bytes": what.new_bytes,
            "way": "stream",
            "url": f"{server.url}/device/v1/blobs/{what.patch_sha256}?ticket=good",
        }
        command = ["unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", str(what.work), sys.executable, json.dumps(told)]
        done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1
    assert "NoSpaceError" in done.stderr.decode().strip().rsplit("\n", 1)[-1]
