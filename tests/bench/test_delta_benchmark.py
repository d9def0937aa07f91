"""The benchmark itself: its JSON on a pair, its means and targets on figures. No absolute time is asserted."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench import delta, delta_measuring
from tests.bench.delta_entropy import entropy_bits
from tests.bench.delta_targets import SIZE_TARGETS, geometric_mean, rows, summarise
from tests.delta.pairs import files

FIELDS = {
    "name",
    "kind",
    "old_bytes",
    "new_bytes",
    "codec",
    "patch_bytes",
    "create_cpu_s",
    "create_peak_rss_mib",
    "apply_s",
    "apply_peak_rss_mib",
    "sha256_ok",
    "baselines",
}


def figures(kind: str, patch_bytes: int, baseline_bytes: int) -> dict[str, Any]:
    measured = {
        "patch_bytes": patch_bytes,
        "create_cpu_s": 1.0,
        "create_s": 1.0,
        "create_peak_rss_mib": 100.0,
        "apply_s": 1.0,
        "apply_peak_rss_mib": 40.0,
        "sha256_ok": True,
    }
    return {
        "name": kind,
        "kind": kind,
        "new_bytes": 10_000,
        "create_above_interpreter_mib": 90.0,
        **measured,
        "baselines": {"bsdiff4": {**measured, "patch_bytes": baseline_bytes}},
    }


@pytest.mark.slow
def test_benchmark__pairs_of_a_directory__every_figure_of_every_codec(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = np.random.default_rng(2)
    old = {"w": dice.normal(0, 0.05, (200, 64)).astype(np.float16)}
    new = {"w": (old["w"].astype(np.float32) * 1.001).astype(np.float16)}
    (tmp_path / "a").write_bytes(files.safetensors(old))
    (tmp_path / "b").write_bytes(files.safetensors(new))
    (tmp_path / "manifest.json").write_text(json.dumps([{"name": "one", "old": "a", "new": "b"}]))
    assert delta.main(["--pairs", str(tmp_path), "--json", str(tmp_path / "out.json"), "--portable"]) == 0
    document = json.loads((tmp_path / "out.json").read_text())
    (pair,) = document["pairs"]
    assert set(pair) >= FIELDS
    assert (pair["kind"], pair["sha256_ok"]) == ("fp16", True)
    tensor1_bytes = pair.get("tensor1_bytes", pair["patch_bytes"])
    assert 0.7 * tensor1_bytes < pair["entropy_bound_bytes"] <= tensor1_bytes
    assert set(pair["baselines"]["bsdiff4"]) >= FIELDS - {
        "name",
        "kind",
        "old_bytes",
        "new_bytes",
        "codec",
        "baselines",
    }
    assert document["summary"]["by_kind"]["fp16"]["pairs"] == 1
    assert "size / bsdiff4, fp16" in capsys.readouterr().out


@pytest.mark.slow
def test_benchmark__large_model__measured_without_a_baseline(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[]")
    words = ["--pairs", str(tmp_path), "--large", "--large-bytes", str(32 << 20), "--json", str(tmp_path / "out.json")]
    assert delta.main(words) == 0
    (pair,) = json.loads((tmp_path / "out.json").read_text())["pairs"]
    assert (pair["kind"], pair["baselines"], pair["sha256_ok"]) == ("huge", {}, True)
    assert pair["new_bytes"] > 32 << 20
    assert pair["apply_peak_rss_mib"] <= 48


def manifest(directory: Path, *entries: object) -> list[str]:
    (directory / "manifest.json").write_text(json.dumps(entries))
    return ["--pairs", str(directory), "--json", str(directory / "out.json")]


@pytest.mark.slow
def test_benchmark__one_pair_cannot_be_made__the_others_are_measured_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("a", b"old" * 999), ("b", b"new" * 999), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
    # A baseline that aborts on one pair, or says that it is done and is not, is no failure of ours.
    program = tmp_path / "bin" / "zstd"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\ncase "$*" in *--patch-from*) kill -ABRT $$;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    plain = delta_measuring.measure

    def killed_once(codec: str, pair: delta_measuring.Pair, scratch: Path) -> Any:
        if pair.name == "bad":
            raise delta_measuring.StepFailedError("exit -9")
        return plain(codec, pair, scratch)

    monkeypatch.setattr(delta, "measure", killed_once)
    words = manifest(
        tmp_path,
        {"name": "bad", "old": "a", "new": "b"},
        {"name": "emptied", "old": "a", "new": "empty"},
        {"name": "filled", "old": "empty", "new": "a"},
    )
    assert delta.main(words) == 1
    shown = capsys.readouterr()
    assert "1 of 3 pairs failed or came out wrong: bad" in shown.err
    document = json.loads((tmp_path / "out.json").read_text())
    bad, emptied, filled = document["pairs"]
    assert set(bad) >= FIELDS
    assert "error" in bad
    assert (bad["patch_bytes"], bad["sha256_ok"]) == (None, False)
    assert (emptied["new_bytes"], emptied["sha256_ok"], filled["sha256_ok"]) == (0, True, True)
    assert emptied["baselines"]["zstd-patch"] == {"error": "zstd: exit -6"}
    assert emptied["baselines"]["full-zstd19"] == {"error": "zstd: exit 0, and no full-zstd19.patch"}
    assert document["summary"]["failed"] == ["bad"]
    assert [row["result"] for row in document["summary"]["targets"] if row["what"].startswith("sha256")] == ["2 of 3"]


def test_benchmark__stopped_at_the_second_pair__the_first_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    words = manifest(tmp_path, *({"name": name, "old": "a", "new": "a"} for name in ("one", "two")))

    def stopped_at_two(pair: delta_measuring.Pair, *_: object) -> dict[str, Any]:
        if pair.name == "two":
            raise KeyboardInterrupt
        return {**figures("fp32", 1, 2), "name": pair.name, "entropy_bound_bytes": None, "codec": "tensor1"}

    monkeypatch.setattr(delta, "one", stopped_at_two)
    with pytest.raises(KeyboardInterrupt):
        delta.main(words)
    (kept,) = json.loads((tmp_path / "out.json").read_text())["pairs"]
    assert kept["name"] == "one"


def test_step__longer_than_allowed__fails_as_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta_measuring, "TIMEOUT_S", 0.01)
    with pytest.raises(delta_measuring.StepFailedError, match="longer than"):
        delta_measuring.run_module("tests.bench.delta_process", "create", "tensor1")
    with pytest.raises(delta_measuring.StepFailedError, match="sleep"):
        delta_measuring._run("sleep", ["600"], {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "manifest.json: expected a readable file, got No such file"),
        ("{", "manifest.json: expected JSON"),
        ('{"pairs": []}', "expected a list of pairs, got dict"),
        ("[3]", "entry 0: expected an object with name, old, new, got int"),
        ('[{"name": "x", "old": "a"}]', "entry 0: expected a text as 'new', got null"),
        ('[{"name": 1, "old": "a", "new": "a"}]', "entry 0: expected a text as 'name', got 1"),
        ('[{"name": "x", "old": "a", "new": "gone"}]', "entry 0: expected a readable file as 'new'"),
        ('[{"name": "x", "old": ".", "new": "a"}]', "entry 0: expected a readable file as 'old'"),
        (
            '[{"name": "x", "old": "a", "new": "a"}, {"name": "x", "old": "a", "new": "a"}]',
            "each name once, got 'x' 2 times",
        ),
        ("[]", "expected pairs with '' in their name, got none"),
    ],
    ids=[
        "missing",
        "no JSON",
        "no list",
        "no object",
        "no new",
        "no text",
        "no such file",
        "a directory",
        "names twice",
        "empty",
    ],
)
def test_manifest__what_cannot_be_followed__one_line_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert delta.main(["--pairs", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_entropy__of_independent_differences__is_near_their_distributions() -> None:
    dice = np.random.default_rng(4)
    contexts = dice.integers(0, 3, 60_000)
    spread = np.array([0.5, 4.0, 900.0])[contexts]
    differences = np.rint(dice.normal(0, 1, 60_000) * spread).astype(np.int32)
    # A normal distribution's differential entropy, which that of its rounded values comes near for wide ones.
    wide = [0.5 * np.log2(2 * np.pi * np.e * size**2) for size in (4.0, 900.0)]
    narrow = np.bincount(np.abs(differences[contexts == 0]))
    shares = np.concatenate([narrow[:1], narrow[1:] / 2, narrow[1:] / 2]) / narrow.sum()
    expected = np.mean([-(shares[shares > 0] * np.log2(shares[shares > 0])).sum(), *wide])
    assert entropy_bits(differences, contexts) / 60_000 == pytest.approx(expected, rel=0.01)


def test_targets__two_pairs_of_a_kind__geometric_mean_beside_the_target() -> None:
    found = [figures("fp32", 200, 1_000), figures("fp32", 800, 1_000)]
    (row,) = [row for row in rows(found) if row.what == "size / bsdiff4, fp32"]
    assert (row.target, row.result, row.is_met) == (f"<= {SIZE_TARGETS['fp32']:g}", "0.4", True)
    assert summarise(found)["by_kind"]["fp32"]["patch_to_bsdiff4"] == 0.4


def test_targets__kind_that_was_not_measured__neither_met_nor_missed() -> None:
    (row,) = [row for row in rows([figures("fp32", 1, 2)]) if row.what == "size / bsdiff4, bf16"]
    assert (row.result, row.is_met) == ("not measured", None)


def test_targets__wrong_result__missed_and_counted() -> None:
    wrong = {**figures("fp32", 1, 2), "sha256_ok": False}
    assert [row.is_met for row in rows([wrong]) if row.what == "sha256 of every result"] == [False]
    assert summarise([wrong])["all"]["sha256_ok"] is False


def test_geometric_mean__no_values__none() -> None:
    assert geometric_mean([]) is None
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
