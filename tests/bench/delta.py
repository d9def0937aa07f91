"""The benchmark of deltas between model versions: `python -m tests.bench.delta [--pairs DIR] [--json OUT]`.

Without `--pairs` it trains and converts its own pairs and ends with a model of 2 GiB. `DIR` holds files and a
`manifest.json`: a list of {"name", "old", "new"} and, if known, "kind". Every step runs in a fresh process; every
ratio is against bsdiff4 in the same run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.delta_measuring import (
    BSDIFF4_LARGEST_BYTES,
    ROOT,
    Pair,
    StepFailedError,
    installed,
    measure,
    measure_command,
)
from tests.bench.delta_targets import Row, rows, summarise

# Up to this size bsdiff4 is a candidate for what is shipped, not only a baseline.
BSDIFF4_CANDIDATE_BYTES = 16 << 20
LARGE_BYTES = 2 << 30


def main(words: Sequence[str]) -> int:
    """Measure, print, write; 0 when every result was byte for byte right."""
    arguments = _arguments(words)
    with tempfile.TemporaryDirectory(prefix="mf-bench-", dir=arguments.scratch) as name:
        scratch = Path(name)
        directory = arguments.pairs or _own_pairs(scratch / "pairs", arguments.size)
        wanted = _manifest(directory, arguments.only)
        results = []
        for pair in wanted:
            result = one(pair, scratch, baselines=not arguments.no_baselines, portable=arguments.portable)
            results.append(result)
            print(_line(result), flush=True)
        if arguments.large or (arguments.large is None and arguments.pairs is None):
            results.append(_large(scratch, arguments.large_bytes))
            print(_line(results[-1]), flush=True)
    summary = summarise(results)
    _print_summary(summary, rows(results))
    if arguments.json:
        targets = [row.encode() for row in rows(results)]
        document = {"pairs": results, "summary": {**summary, "targets": targets}}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(result["sha256_ok"] for result in results) else 1


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.delta", description=__doc__)
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="files and manifest.json (default: own pairs)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures")
    parser.add_argument("--size", choices=("small", "full"), default="full", help="of own pairs")
    parser.add_argument("--only", default="", metavar="TEXT", help="only pairs with this in their name")
    parser.add_argument("--no-baselines", action="store_true", help="measure our codec alone")
    parser.add_argument("--portable", action="store_true", help="also with the coding for devices without pcodec")
    parser.add_argument(
        "--large", action=argparse.BooleanOptionalAction, help="a model of 2 GiB (default: without --pairs)"
    )
    parser.add_argument("--large-bytes", type=int, default=LARGE_BYTES, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help="where patches and own pairs are written (default: temporary)")
    return parser.parse_args(words)


def _own_pairs(directory: Path, size: str) -> Path:
    print(f"training and converting pairs ({size}) ...", flush=True)
    command = [sys.executable, "-m", "tests.delta.pairs.catalogue", str(directory), size]
    subprocess.run(command, cwd=ROOT, check=True)
    return directory


def _manifest(directory: Path, only: str) -> list[Pair]:
    entries = json.loads((directory / "manifest.json").read_text())
    wanted = [entry for entry in entries if only in entry["name"]]
    return [
        Pair(
            entry["name"],
            entry.get("kind") or _kind(directory, entry),
            directory / entry["old"],
            directory / entry["new"],
        )
        for entry in wanted
    ]


def _kind(directory: Path, entry: dict[str, str]) -> str:
    from tests.bench.delta_kinds import kind_of, require_file

    return kind_of(entry["name"], require_file(directory / entry["old"]), require_file(directory / entry["new"]))


def one(pair: Pair, scratch: Path, *, baselines: bool, portable: bool = False) -> dict[str, Any]:
    """All codecs on one pair."""
    measured, said = measure("tensor1", pair, scratch)
    new_bytes = pair.new.stat().st_size
    result: dict[str, Any] = {
        "name": pair.name,
        "kind": pair.kind,
        "old_bytes": pair.old.stat().st_size,
        "new_bytes": new_bytes,
        "codec": "tensor1",
        **measured.encode(),
        "create_above_interpreter_mib": round(said["peak_rss_mib"] - said["interpreter_rss_mib"], 1),
        "entropy_bound_bytes": int(said["entropy_bound_bytes"]) if "entropy_bound_bytes" in said else None,
        "encode_s": round(said["encode_s"], 4),
        "verified_cpu_s": round(said["cpu_s"], 4),
        "baselines": {},
    }
    if portable:
        result["portable"] = measure("tensor1-portable", pair, scratch)[0].encode()
    if baselines:
        _add_baselines(result, pair, scratch)
    return result


def _add_baselines(result: dict[str, Any], pair: Pair, scratch: Path) -> None:
    largest = max(result["old_bytes"], result["new_bytes"])
    found = result["baselines"]
    for name in ("bsdiff4", *installed()):
        if name == "bsdiff4" and largest > BSDIFF4_LARGEST_BYTES:
            continue
        try:
            measured = measure(name, pair, scratch)[0] if name == "bsdiff4" else measure_command(name, pair, scratch)
            found[name] = measured.encode()
        except StepFailedError as error:
            found[name] = {"error": str(error)}
            print(f"  {pair.name}: {error}", file=sys.stderr)
    full = found.get("full-zstd19", {}).get("patch_bytes")
    result["full_bytes"] = min(full or result["new_bytes"], result["new_bytes"])
    # As `modelfleet delta create` does: the smaller of two candidates, where trying both is cheap.
    other = found.get("bsdiff4", {})
    if largest <= BSDIFF4_CANDIDATE_BYTES and other.get("patch_bytes", largest) < result["patch_bytes"]:
        result["tensor1_bytes"] = result["patch_bytes"]
        result |= {"codec": "bsdiff4", "patch_bytes": other["patch_bytes"]}
        result |= {key: other[key] for key in ("apply_s", "apply_cpu_s", "apply_peak_rss_mib", "sha256_ok")}


def _large(scratch: Path, size: int) -> dict[str, Any]:
    print(f"making a model of {size / (1 << 30):.1f} GiB ...", flush=True)
    old, new = scratch / "large.old.safetensors", scratch / "large.new.safetensors"
    command = [sys.executable, "-m", "tests.bench.delta_large_model", str(old), str(new), str(size)]
    subprocess.run(command, cwd=ROOT, check=True)
    result = one(Pair("huge_fp32", "huge", old, new), scratch, baselines=False)
    old.unlink()
    new.unlink()
    return result


def _line(result: dict[str, Any]) -> str:
    baseline = result["baselines"].get("bsdiff4", {}).get("patch_bytes")
    against = f"{result['patch_bytes'] / baseline:7.4f} of bsdiff4" if baseline else " " * 18
    least = result["entropy_bound_bytes"]
    bound = f"(bound {100 * least / result['new_bytes']:8.3f} %)" if least else " " * 18
    return (
        f"{result['name']:28} {result['kind']:16} {result['new_bytes'] / 1e6:8.1f} MB {result['codec']:8} "
        f"{100 * result['patch_bytes'] / result['new_bytes']:8.3f} % {bound} {against}  "
        f"create {result['create_cpu_s']:7.2f} cpu s {result['create_peak_rss_mib']:6.0f} MiB  "
        f"apply {result['apply_s']:6.2f} s {result['apply_peak_rss_mib']:5.0f} MiB  "
        f"{'ok' if result['sha256_ok'] else 'WRONG'}"
    )


def _print_summary(summary: dict[str, Any], targets: Sequence[Row]) -> None:
    print("\ngeometric means by kind" + " " * 18 + "patch/new  patch/bsdiff4  create CPU/bsdiff4  tensor1/bound")
    for kind, means in [
        *summary["by_kind"].items(),
        ("fine-tuned, all", summary["fine_tuned"]),
        ("all", summary["all"]),
    ]:
        cells = [means["patch_to_new"], means["patch_to_bsdiff4"], means["create_cpu_to_bsdiff4"]]
        cells.append(means["tensor1_to_entropy_bound"])
        shown = ["-" if cell is None else f"{cell:.4g}" for cell in cells]
        print(f"  {kind:24} {means['pairs']:3} pairs  {shown[0]:>12} {shown[1]:>14} {shown[2]:>19} {shown[3]:>14}")
    print(f"\n{'target':58} {'wanted':>10} {'result':>14}")
    for row in targets:
        mark = {True: "met", False: "MISSED", None: "-"}[row.is_met]
        print(f"{row.what:58} {row.target:>10} {row.result:>14}  {mark}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
