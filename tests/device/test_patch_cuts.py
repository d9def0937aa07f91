"""Cut power and full disks while a patch is applied: beside the old file, and in its place.

The disk is a fake that loses what was not synced; both it and the real one pass the same test first.
"""

import random
import stat
import zlib
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from device_client.adapters.patching.files import DiskFolder, Folder, reservable
from device_client.adapters.patching.in_place import InPlaceApply, spare
from device_client.adapters.patching.staged import Expected, StagedApply
from device_client.adapters.patching.stream import PatchEndedError
from device_client.core.room import batch_bytes
from device_client.wire.errors import MalformedPatchError
from device_client.wire.tensor1 import read_header
from device_client.wire.tensor1.format import Flag, Header, Instruction, Kind, pack_varint
from device_client.wire.tensor1.pieces import blocks
from device_client.wire.tensor1.reach import reach_back
from tests.delta.pairs import files
from tests.delta.patches import Held, forged, make, weights
from tests.device.test_patching import BLOCK, NEW, OLD
from tests.fakes.update_server import sha256
from tests.fakes.volatile_disk import LightsOutError, VolatileFile, VolatileFolder

HALF = len(OLD) // 2
TURNED = OLD[HALF:] + OLD[:HALF]  # the first half is still wanted when it has been overwritten
SYNC_BYTES = 4 * BLOCK


class Case:
    """One pair and its patch."""

    def __init__(self, old: bytes, new: bytes, patch: bytes | None = None) -> None:
        self.old, self.new = old, new
        self.patch = patch or make(old, new, block_bytes=BLOCK)[0]
        old_sha256, new_sha256, patch_sha256 = (bytes.fromhex(sha256(content)) for content in (old, new, self.patch))
        self.expected = Expected(patch_sha256, len(self.patch), old_sha256, new_sha256, len(new))


def turning() -> bytes:
    """A patch of two copies, which swap the halves of the old file."""
    copies = (Instruction(Kind.COPY, HALF, HALF), Instruction(Kind.COPY, HALF, 0))
    old, new = (bytes.fromhex(sha256(content)) for content in (OLD, TURNED))
    header = Header(Flag(0), BLOCK, len(OLD), old, len(TURNED), new, reach_back(copies))
    records = (
        pack_varint(0) + zlib.crc32(TURNED[block.offset : block.offset + block.length]).to_bytes(4, "little")
        for block in blocks(copies, BLOCK)
    )
    return forged(header, copies, b"".join(records))


def rescaled() -> Case:
    """One tensor of many blocks, for which its rows' factors are needed from the first block to the last."""
    old, factors = weights(1, 96, 1024), 1 + weights(2, 96, 1) * np.float32(0.01)
    new = old * factors.astype("f4") + weights(3, 96, 1024) * np.float32(1e-5)
    return Case(files.safetensors({"w": old}), files.safetensors({"w": new}))


def by_columns() -> Case:
    """One matrix, transposed: every block reads from the first row to the last."""
    old = weights(1, 96, 512)
    return Case(files.safetensors({"w": old}), files.safetensors({"w": np.ascontiguousarray(old.T)}))


CASES = {
    "by columns": by_columns(),
    "rescaled": rescaled(),
    "retrained": Case(OLD, NEW),
    "turned round": Case(OLD, TURNED, turning()),
    "shrunk": Case(NEW, OLD),
    "verbatim": Case(OLD[:9_000], random.Random(1).randbytes(90_000)),
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


Clock = Callable[[], float]


def standing() -> float:
    return 0.0


def stream(case: Case, folder: Folder, clock: Clock = standing) -> int:
    """Apply beside the old file; returns from which byte of the output it went on."""
    apply = StagedApply(folder, case.expected, clock, SYNC_BYTES)
    place = apply.start.patch_offset

    def take(length: int) -> bytes:
        nonlocal place
        chunk = case.patch[place : place + min(length, 1_000)]
        place += len(chunk)
        return chunk

    start = apply.start.output_offset
    apply.run(take, Held(case.old))
    return start


def in_place(case: Case, folder: Folder, clock: Clock = standing, made: list[int] | None = None) -> int:
    """Apply in place, over an old file that was given up; `made` gets an item for each block."""
    apply = InPlaceApply(folder, case.expected, Held(case.patch), clock, SYNC_BYTES)
    done = [] if made is None else made

    def stopped() -> bool:
        done.append(1)
        return False

    apply.run(stopped)
    return 0


def installed(content: bytes) -> VolatileFile:
    """An old file in its slot."""
    file = VolatileFolder().open("old")
    file.write_at(0, content)
    file.sync()
    return file


def fresh(case: Case, way: Callable[..., int]) -> VolatileFolder:
    folder = VolatileFolder()
    if way is in_place:
        apply = InPlaceApply(folder, case.expected, Held(case.patch), standing, SYNC_BYTES)
        old = installed(case.old)
        apply.rehearse(old)
        old.folder, folder.files["output"] = folder, old  # given up
        folder.sync()
    folder.steps = 0
    return folder


def outcome(folder: VolatileFolder) -> bytes:
    return bytes(folder.files["output"].now)


@pytest.mark.parametrize("make_folder", [DiskFolder, lambda _: VolatileFolder()], ids=["disk", "fake"])
def test_folder__files__as_the_port_says(make_folder: Callable[[Path], Folder], tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "work")
    file = folder.open("b")
    assert (file.size, file.read_at(0, 9)) == (0, b"")
    file.write_at(3, b"defg")
    assert (file.size, file.read_at(2, 3), file.read_at(5, 100), file.read_at(50, 1)) == (7, b"\0de", b"fg", b"")
    file.write_at(1, bytearray(b"bc"))
    file.truncate(5)
    assert (file.read_at(0, 9), folder.open("b").size) == (b"\0bcde", 5)
    file.reserve(3)
    file.reserve(9)
    assert (file.size, file.read_at(0, 20)) == (5, b"\0bcde")
    folder.open("a").sync()
    folder.sync()
    assert folder.names() == ["a", "b"]
    folder.remove("a")
    folder.remove("never there")
    assert folder.names() == ["b"]


@pytest.mark.parametrize("way", [stream, in_place])
def test_apply__uncut__the_new_file_and_few_syncs(case: Case, way: Callable[..., int]) -> None:
    folder = fresh(case, way)
    before = folder.syncs
    way(case, folder)
    assert outcome(folder) == case.new
    # In place, a batch has as many whole blocks as fit, one at least.
    batch = SYNC_BYTES if way is stream else max(BLOCK, min(SYNC_BYTES, batch_bytes(len(case.new))) - BLOCK)
    batches = len(case.new) // batch + 2
    assert folder.syncs - before <= 4 * batches, "a sync for each block"


@pytest.mark.parametrize("way", [stream, in_place])
def test_apply__power_cut_anywhere__ends_right(case: Case, way: Callable[..., int]) -> None:
    whole = fresh(case, way)
    way(case, whole)
    dice = random.Random(len(case.new))
    for _ in range(40):
        folder = fresh(case, way)
        folder.cut_at = dice.randrange(whole.steps)
        for cuts in count():
            try:
                way(case, folder)
                break
            except LightsOutError:
                folder.cut(dice)
                folder.cut_at = dice.randrange(whole.steps) if cuts < 4 else None
        assert outcome(folder) == case.new


def test_stream__power_cut__repeats_at_most_the_unsynced_bytes(case: Case) -> None:
    whole = fresh(case, stream)
    stream(case, whole)
    dice = random.Random(3)
    for _ in range(40):
        folder = fresh(case, stream)
        folder.cut_at = dice.randrange(whole.steps)
        with pytest.raises(LightsOutError):
            stream(case, folder)
        made = len(outcome(folder)) if "output" in folder.files else 0
        folder.cut(dice)
        assert made - stream(case, folder) <= SYNC_BYTES + 2 * BLOCK


def test_stream__parameters_for_many_blocks__only_those_are_kept() -> None:
    case = CASES["rescaled"]
    folder = fresh(case, stream)
    stream(case, folder)
    kept = []
    for number in range(10, folder.steps, 5):
        files_of = killed(case, stream, number).files
        kept += [file.size for name, file in files_of.items() if name.startswith("kept.")]
    assert len(kept) > 5
    assert max(kept) < 500 < len(case.patch) // 100


def test_stream__power_cut_when_blocks_are_slow__repeats_at_most_a_second() -> None:
    case = CASES["retrained"]
    ticks = count(step=0.3)
    folder = fresh(case, stream)
    folder.cut_at = 60
    with pytest.raises(LightsOutError):
        stream(case, folder, lambda: next(ticks))
    made = len(outcome(folder))
    folder.cut(random.Random(1))
    assert made - stream(case, folder) <= 4 * BLOCK


def killed(case: Case, way: Callable[..., int], number: int, *more: object) -> VolatileFolder:
    """A folder that a killed process left: nothing that it had written is lost."""
    folder = fresh(case, way)
    folder.cut_at = number
    with pytest.raises(LightsOutError):
        way(case, folder, standing, *more)
    folder.cut_at = None
    return folder


def test_stream__killed_anywhere__repeats_at_most_one_block(case: Case) -> None:
    whole = fresh(case, stream)
    stream(case, whole)
    for number in random.Random(7).sample(range(whole.steps), 20):
        folder = killed(case, stream, number)
        made = len(outcome(folder)) if "output" in folder.files else 0
        assert made - stream(case, folder) <= BLOCK
        assert outcome(folder) == case.new


def test_in_place__killed_anywhere__repeats_at_most_one_block(case: Case) -> None:
    blocks_of_all: list[int] = []
    whole = fresh(case, in_place)
    in_place(case, whole, standing, blocks_of_all)
    for number in random.Random(7).sample(range(whole.steps), 20):
        made: list[int] = []
        folder = killed(case, in_place, number, made)
        in_place(case, folder, standing, made)
        assert len(made) <= len(blocks_of_all), "the block that was cut is not counted, so none was made twice"
        assert outcome(folder) == case.new


def test_in_place__patch_that_reaches_too_far_back__refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["turned round"]
    assert read_header(Held(case.patch)).reach_back == HALF
    monkeypatch.setattr("device_client.adapters.patching.in_place.MAX_REACH_BYTES", HALF // 2)
    with pytest.raises(MalformedPatchError, match="reaches back"):
        InPlaceApply(VolatileFolder(), case.expected, Held(case.patch), standing)


def test_in_place__rehearsed_on_another_file__refused_and_nothing_written() -> None:
    case = CASES["retrained"]
    folder = VolatileFolder()
    other = case.old[:-1] + bytes([case.old[-1] ^ 1])
    with pytest.raises(MalformedPatchError):
        InPlaceApply(folder, case.expected, Held(case.patch), standing).rehearse(installed(other))
    assert folder.names() == []


def test_in_place__no_room_for_what_it_keeps_aside__os_error_before_it_begins() -> None:
    case = CASES["turned round"]
    folder = VolatileFolder(room_bytes=HALF // 2)
    with pytest.raises(OSError, match="No space"):
        InPlaceApply(folder, case.expected, Held(case.patch), standing).rehearse(installed(case.old))
    assert "output" not in folder.names()


def test_in_place__power_cut_anywhere_and_others_take_the_room__ends_right(case: Case) -> None:
    whole = fresh(case, in_place)
    in_place(case, whole)
    dice = random.Random(len(case.new))
    for number in dice.sample(range(whole.steps), min(40, whole.steps)):
        folder = fresh(case, in_place)
        folder.cut_at = number
        with pytest.raises(LightsOutError):
            in_place(case, folder)
        folder.cut(dice)
        folder.is_taken = True
        in_place(case, folder)
        assert outcome(folder) == case.new


def test_reservable__file_that_nobody_may_write__room_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(OLD)
    path.chmod(0o400)
    file = reservable(path)
    file.reserve(4 * len(OLD))
    assert path.read_bytes() == OLD
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert path.stat().st_blocks * 512 >= 4 * len(OLD)
    spare(file)
    assert path.read_bytes() == OLD


def test_in_place__stopped__goes_on_later() -> None:
    case = CASES["retrained"]
    folder = fresh(case, in_place)
    apply = InPlaceApply(folder, case.expected, Held(case.patch), standing, SYNC_BYTES)
    blocks = count()
    with pytest.raises(PatchEndedError):
        apply.run(lambda: next(blocks) > 10)
    in_place(case, folder)
    assert outcome(folder) == case.new


def test_stream__disk_full_in_mid_block__goes_on_once_there_is_room(case: Case) -> None:
    folder = fresh(case, stream)
    folder.room_bytes = len(case.new) // 2 + 100
    with pytest.raises(OSError, match="No space"):
        stream(case, folder)
    folder.room_bytes = 1 << 40
    assert stream(case, folder) > len(case.new) // 2 - 2 * BLOCK
    assert outcome(folder) == case.new
