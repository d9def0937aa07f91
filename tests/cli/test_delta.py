"""`modelfleet delta`: files in, files out, and nothing wrong or half-done ever left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from device_client.wire.tensor1.format import MAX_FILE_BYTES, pack_header, parse_header
from fleet.domain.delta_sizes import BSDIFF4_MAX_BYTES
from tests.cli.conftest import CommandLine
from tests.delta.pairs import files

ROOT = Path(__file__).resolve().parents[2]
DICE = np.random.default_rng(11)
WEIGHTS = {
    "embed": DICE.normal(0, 0.05, (400, 64)).astype(np.float32),
    "bias": DICE.normal(0, 0.05, 64).astype(np.float32),
}
TUNED = {
    name: array + DICE.normal(0, 1e-5, array.shape).astype(np.float32) * (DICE.random(array.shape) < 0.3)
    for name, array in WEIGHTS.items()
}
TUNED = {name: array.astype(np.float32) for name, array in TUNED.items()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "old").write_bytes(files.onnx_file(WEIGHTS)[0])
    (tmp_path / "new").write_bytes(files.onnx_file(TUNED)[0])
    (tmp_path / "tuned").write_bytes(b"precious")
    return tmp_path


@pytest.fixture
def modelfleet(home: Path) -> CommandLine:
    """No server: these commands must not need one."""
    return CommandLine({"HOME": str(home)})


def waits_for(condition: Callable[[], bool]) -> None:
    """Until it holds; a minute at most."""
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)


def names(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


@pytest.mark.parametrize(
    "words",
    [(), ("--codec", "tensor1"), ("--codec", "bsdiff4"), ("--portable",)],
    ids=lambda words: " ".join(words) or "auto",
)
def test_create_and_apply__every_codec__the_new_file(
    modelfleet: CommandLine, home: Path, words: tuple[str, ...]
) -> None:
    made = modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", *words)
    assert made["patch_bytes"] == (home / "patch").stat().st_size < made["new_bytes"]
    assert modelfleet("delta", "apply", home / "old", home / "patch", home / "tuned").code == 0
    assert (home / "tuned").read_bytes() == (home / "new").read_bytes()
    assert names(home) == {"old", "new", "patch", "tuned"}


def test_create__auto__no_larger_than_either_codec(modelfleet: CommandLine, home: Path) -> None:
    sizes = {
        codec: modelfleet.ok("delta", "create", home / "old", home / "new", home / codec, "--codec", codec)[
            "patch_bytes"
        ]
        for codec in ("auto", "tensor1", "bsdiff4")
    }
    assert sizes["auto"] == min(sizes["tensor1"], sizes["bsdiff4"])


def test_create__twice__the_same_bytes(modelfleet: CommandLine, home: Path) -> None:
    for name in ("a", "b"):
        assert modelfleet("delta", "create", home / "old", home / "new", home / name).code == 0
    assert (home / "a").read_bytes() == (home / "b").read_bytes()


@pytest.mark.parametrize("codec", ["tensor1", "bsdiff4"])
@pytest.mark.parametrize("damage", ["wrong base", "truncated", "flipped early", "flipped late", "empty"])
def test_apply__damage__one_line_and_the_target_as_it_was(
    modelfleet: CommandLine, home: Path, codec: str, damage: str
) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", codec)
    patch, base = bytearray((home / "patch").read_bytes()), home / "old"
    if damage == "wrong base":
        base = home / "new"
    elif damage.startswith("flipped"):
        patch[40 if damage == "flipped early" else len(patch) - 3] ^= 0x10
    else:
        patch = patch[: len(patch) // 2 if damage == "truncated" else 0]
    (home / "patch").write_bytes(bytes(patch))
    ran = modelfleet("delta", "apply", base, home / "patch", home / "tuned")
    assert (ran.code, ran.err.count("\n"), ran.out) == (1, 1, "")
    assert (home / "tuned").read_bytes() == b"precious"
    assert names(home) == {"old", "new", "patch", "tuned"}


def test_apply__bsdiff4_without_digests__refused(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "bsdiff4")
    (home / "patch").write_bytes((home / "patch").read_bytes()[:-72])
    ran = modelfleet("delta", "apply", home / "old", home / "patch", home / "tuned")
    assert ran.code == 1
    assert "digests" in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ("create", "missing", "new", "patch"),
        ("create", "old", "new", "no/such/folder/patch"),
        ("apply", "old", "missing", "x"),
        ("inspect", "missing"),
        ("inspect", "old"),
        ("create", "old", "new", "patch", "--codec", "zip"),
    ],
)
def test_delta__what_cannot_be__one_line_and_exit_1(
    modelfleet: CommandLine, home: Path, words: tuple[str, ...]
) -> None:
    places = [word if word.startswith("-") or word == "zip" else home / word for word in words[1:]]
    ran = modelfleet("delta", words[0], *places)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert names(home) == {"old", "new", "tuned"}


@pytest.mark.parametrize("link", ["itself", "symlink", "hard link"])
@pytest.mark.parametrize("words", [("create", "old", "new", "old"), ("create", "old", "new", "new")], ids=" ".join)
def test_create__onto_what_it_reads__refused_and_nothing_changed(
    modelfleet: CommandLine, home: Path, words: tuple[str, ...], link: str
) -> None:
    refuses_to_overwrite(modelfleet, home, words, link)


@pytest.mark.parametrize("link", ["itself", "symlink", "hard link"])
@pytest.mark.parametrize("words", [("apply", "old", "patch", "old"), ("apply", "old", "patch", "patch")], ids=" ".join)
@pytest.mark.parametrize("codec", ["tensor1", "bsdiff4"])
def test_apply__onto_what_it_reads__refused_and_nothing_changed(
    modelfleet: CommandLine, home: Path, codec: str, words: tuple[str, ...], link: str
) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", codec)
    refuses_to_overwrite(modelfleet, home, words, link)


def refuses_to_overwrite(modelfleet: CommandLine, home: Path, words: tuple[str, ...], link: str) -> None:
    verb, first, second, target = words
    place = home / target
    if link == "symlink":
        place = home / "link"
        place.symlink_to(home / target)
    elif link == "hard link":
        place = home / "link"
        place.hardlink_to(home / target)
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    ran = modelfleet("delta", verb, home / first, home / second, place)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert str(place) in ran.err
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


@pytest.mark.parametrize(
    "words",
    [
        ("create", "ODD", "new", "x"),
        ("create", "old", "ODD", "x"),
        ("create", "old", "new", "ODD"),
        ("apply", "ODD", "patch", "x"),
        ("apply", "old", "ODD", "x"),
        ("apply", "old", "patch", "ODD"),
        ("inspect", "ODD"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("odd", ["directory", "pipe", "/dev/null"])
def test_delta__no_regular_file__one_line_with_its_name(
    modelfleet: CommandLine, home: Path, odd: str, words: tuple[str, ...]
) -> None:
    if words[0] == "apply":
        modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "tensor1")
    place = Path(odd) if odd.startswith("/") else home / odd
    if odd == "directory":
        place.mkdir()
    elif odd == "pipe":
        os.mkfifo(place)
    before = names(home)
    ran = modelfleet("delta", words[0], *(place if word == "ODD" else home / word for word in words[1:]))
    assert (ran.code, ran.err.count("\n"), ran.out) == (1, 1, "")
    assert str(place) in ran.err
    assert "regular file" in ran.err
    assert names(home) == before


@pytest.mark.parametrize("name", ["patch", "tuned"])
def test_apply__unreadable_or_closed__one_line_with_its_name(modelfleet: CommandLine, home: Path, name: str) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch")
    closed = home / "no" / "such" / name
    words = (home / "old", closed, home / "tuned") if name == "patch" else (home / "old", home / "patch", closed)
    ran = modelfleet("delta", "apply", *words)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert f"{closed}: No such file or directory" in ran.err


def test_apply__more_than_there_is_room_for__one_line_before_it_begins(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "tensor1")
    patch = (home / "patch").read_bytes()
    forged = pack_header(replace(parse_header(patch), new_bytes=MAX_FILE_BYTES))
    (home / "patch").write_bytes(forged + patch[len(forged) :])
    ran = modelfleet("delta", "apply", home / "old", home / "patch", home / "tuned")
    assert ran.code == 1
    assert f"{home / 'tuned'}: expected room for {MAX_FILE_BYTES} bytes" in ran.err
    assert (home / "tuned").read_bytes() == b"precious"


@pytest.mark.parametrize("words", [("apply", "old", "patch", "tuned"), ("inspect", "patch")], ids=" ".join)
def test_delta__bsdiff4_that_announces_more_than_it_is_for__one_line_at_once(
    modelfleet: CommandLine, home: Path, words: tuple[str, ...]
) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "bsdiff4")
    patch = bytearray((home / "patch").read_bytes())
    patch[24:32] = (BSDIFF4_MAX_BYTES + 1).to_bytes(8, "little")
    (home / "patch").write_bytes(bytes(patch))
    ran = modelfleet("delta", words[0], *(home / word for word in words[1:]))
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert f"{home / 'patch'}: expected a bsdiff4 patch that makes at most {BSDIFF4_MAX_BYTES} bytes" in ran.err
    assert (home / "tuned").read_bytes() == b"precious"


def test_apply__through_a_link__replaces_what_it_leads_to(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch")
    (home / "folder").mkdir()
    (home / "folder" / "model").write_bytes(b"precious")
    (home / "link").symlink_to(Path("folder") / "model")
    assert modelfleet("delta", "apply", home / "old", home / "patch", home / "link").code == 0
    assert (home / "link").readlink() == Path("folder") / "model"
    assert (home / "folder" / "model").read_bytes() == (home / "new").read_bytes()
    assert [path.name for path in (home / "folder").iterdir()] == ["model"]


def test_apply__through_a_link_to_nothing__refused(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch")
    (home / "link").symlink_to("nothing")
    ran = modelfleet("delta", "apply", home / "old", home / "patch", home / "link")
    assert ran.code == 1
    assert f"{home / 'link'}: expected a file or nothing, got a link that leads nowhere" in ran.err
    assert names(home) == {"old", "new", "patch", "tuned", "link"}


def modelfleet_process(*words: str | Path | bytes, stdout: int | BinaryIO = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """The command as people run it; whoever runs the tests may have signals ignored, as `nohup` has."""
    unshielded = ["env", "--default-signal=INT,HUP"]
    command = [*unshielded, sys.executable, "-m", "fleet.entrypoints.cli", "delta", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_create__ended_by_a_signal__leaves_no_draft(home: Path, number: signal.Signals) -> None:
    # Compressing this takes ten seconds.
    (home / "large").write_text(np.random.default_rng(1).bytes(8 << 20).hex())
    process = modelfleet_process("create", home / "new", home / "large", home / "patch", "--codec", "tensor1")
    waits_for(lambda: bool(list(home.glob(".patch.*"))) or process.poll() is not None)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert b"Traceback" not in said
    assert names(home) == {"old", "new", "tuned", "large"}


def test_apply__names_that_are_no_utf_8__said_with_escapes(home: Path) -> None:
    folder = os.fsencode(home)
    assert modelfleet_process("create", home / "old", home / "new", folder + b"/p\xff").wait(60) == 0
    process = modelfleet_process("apply", home / "old", folder + b"/p\xff", folder + b"/m\xff")
    out, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")
    assert rb"m\udcff: " in out
    assert Path(os.fsdecode(folder + b"/m\xff")).read_bytes() == (home / "new").read_bytes()


def test_apply__nobody_can_be_told__one_line(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch")
    with Path("/dev/full").open("wb") as full:
        process = modelfleet_process("apply", home / "old", home / "patch", home / "tuned", stdout=full)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.count(b"\n")) == (1, 1), said
    assert b"No space left" in said


def test_inspect__tensor1__predictor_bits_and_bytes_by_tensor(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "tensor1")
    found = modelfleet.ok("delta", "inspect", home / "patch", "--model", home / "new")
    (embed,) = [part for part in found["parts"] if part["name"] == "embed"]
    assert (embed["predictor"], embed["dtype"], embed["elements"]) == ("same", "f32", 400 * 64)
    assert 0 < embed["bits_per_weight"] < 32
    assert sum(part["output_bytes"] for part in found["parts"]) == found["new_bytes"]
    spent = found["header_bytes"] + sum(part["patch_bytes"] for part in found["parts"] if part["kind"] != "literal")
    assert abs(spent - found["patch_bytes"]) < 64
    assert "embed" in modelfleet("delta", "inspect", home / "patch", "--model", home / "new").out


def test_inspect__another_model_than_the_patch_makes__one_line(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "tensor1")
    ran = modelfleet("delta", "inspect", home / "patch", "--model", home / "old")
    assert ran.code == 1
    assert f"{home / 'old'}: sha256" in ran.err


def test_inspect__names_that_are_no_text__escaped(modelfleet: CommandLine, home: Path) -> None:
    for file, weights in (("old", WEIGHTS), ("new", TUNED)):
        (home / file).write_bytes(files.safetensors({"a\ud800\x1b[31m\n": weights["embed"]}))
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "tensor1")
    ran = modelfleet("delta", "inspect", home / "patch", "--model", home / "new")
    assert ran.code == 0
    assert r"a\ud800\x1b[31m\n " in ran.out


def test_apply__onto_a_private_file__stays_private(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "tensor1")
    (home / "tuned").chmod(0o600)
    assert modelfleet("delta", "apply", home / "old", home / "patch", home / "tuned").code == 0
    assert (home / "tuned").stat().st_mode & 0o777 == 0o600


def test_inspect__bsdiff4__what_its_header_says(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "bsdiff4")
    found = modelfleet.ok("delta", "inspect", home / "patch")
    assert (found["codec"], found["new_bytes"]) == ("bsdiff4", (home / "new").stat().st_size)


def test_inspect__a_model_for_a_patch__told_what_was_expected(modelfleet: CommandLine, home: Path) -> None:
    ran = modelfleet("delta", "inspect", home / "old")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert f"{home / 'old'}: expected a patch of tensor1 or bsdiff4, got a file that begins with b'" in ran.err


def test_create__external_data__its_model_file_helps(modelfleet: CommandLine, home: Path) -> None:
    shuffled = dict(reversed(TUNED.items()))
    for name, weights in (("a", WEIGHTS), ("b", shuffled)):
        model, data = files.onnx_file(weights, external="weights.data")
        (home / f"{name}.onnx").write_bytes(model)
        (home / f"{name}.onnx.data").write_bytes(data)
    made = modelfleet.ok(
        "delta", "create", home / "a.onnx.data", home / "b.onnx.data", home / "p", "--codec", "tensor1"
    )
    assert "embed" in {item["name"] for item in made["tensors"]}


@pytest.mark.parametrize("change", ["bytes behind the end", "cut"])
@pytest.mark.parametrize("kind", ["records", "verbatim"])
def test_inspect__not_a_whole_patch__one_line(modelfleet: CommandLine, home: Path, kind: str, change: str) -> None:
    if kind == "verbatim":
        (home / "new").write_bytes(np.random.default_rng(1).bytes(3000))
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "tensor1")
    assert modelfleet.ok("delta", "inspect", home / "patch")["is_verbatim"] == (kind == "verbatim")
    patch = (home / "patch").read_bytes()
    (home / "patch").write_bytes(patch + b"x" if change == "bytes behind the end" else patch[:-1])
    ran = modelfleet("delta", "inspect", home / "patch")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert str(home / "patch") in ran.err


def test_inspect__as_text__begins_with_the_whole(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch", "--codec", "tensor1")
    lines = modelfleet("delta", "inspect", home / "patch").out.splitlines()
    assert lines[0].startswith(f"{home / 'patch'}: tensor1, ")
    assert lines[1].startswith(f"old file: {(home / 'old').stat().st_size} bytes, sha256 ")
    assert "instructions, blocks of 131072 bytes, needs pcodec" in lines[3]


def test_create__of_an_empty_file__no_share_of_nothing(modelfleet: CommandLine, home: Path) -> None:
    (home / "new").write_bytes(b"")
    ran = modelfleet("delta", "create", home / "old", home / "new", home / "patch")
    assert ran.code == 0
    assert ran.out.rstrip().endswith("B, of an empty file")


def test_create__three_at_once_onto_one_name__one_whole_patch_and_no_drafts(home: Path) -> None:
    processes = [modelfleet_process("create", home / "old", home / "new", home / "patch") for _ in range(3)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert modelfleet_process("apply", home / "old", home / "patch", home / "tuned").wait(60) == 0
    assert (home / "tuned").read_bytes() == (home / "new").read_bytes()
    assert names(home) == {"old", "new", "patch", "tuned"}


def test_apply__onto_a_folder_that_is_full__one_line_and_no_draft(modelfleet: CommandLine, home: Path) -> None:
    modelfleet.ok("delta", "create", home / "old", home / "new", home / "patch")
    command = [sys.executable, "-m", "fleet.entrypoints.cli", "delta", "apply"]
    ran = subprocess.run(
        ["sh", "-c", 'ulimit -f 10; exec "$@"', "sh", *command, home / "old", home / "patch", home / "tuned"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert f"{home / 'tuned'}: File too large" in ran.stderr
    assert (home / "tuned").read_bytes() == b"precious"
    assert names(home) == {"old", "new", "patch", "tuned"}
