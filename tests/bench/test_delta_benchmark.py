"""The benchmark itself: its JSON on a pair, its means and targets on figures. No absolute time is asserted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench import delta
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
