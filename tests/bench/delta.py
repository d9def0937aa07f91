"""The benchmark of deltas between model versions: `python -m tests.bench.delta [--pairs DIR] [--json OUT]`.

Without `--pairs` it trains and converts its own pairs and ends with a model of 2 GiB. `DIR` holds files and a
`manifest.json`: a list of {"name", "old", "new"} and, if known, "kind". Every step runs in a fresh process; every
ratio is against bsdiff4 in the same run.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from fleet.adapters.delta_bsdiff4 import is_tried as is_bsdiff4_tried
from tests.bench.delta_manifest import ManifestError
from tests.bench.delta_manifest import read as read_manifest
from tests.bench.delta_measuring import (
    BSDIFF4_LARGEST_BYTES,
    Measured,
    Pair,
    StepFailedError,
    compiled_modules,
    figures,
    installed,
    measure,
    measure_command,
    run_module,
)
from tests.bench.delta_targets import Row, rows, summarise

LARGE_BYTES = 2 << 30


def main(words: Sequence[str]) -> int:
    """Measure, print, write; 0 when every pair was measured and every result byte for byte right."""
    arguments = _arguments(words)
    results: list[dict[str, Any]] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="mf-bench-", dir=arguments.scratch) as name,
            compiled_modules(Path(name)),
        ):
            for result in _results(arguments, Path(name)):
                results.append(result)
                print(_line(result), flush=True)
                if arguments.json:
                    _write(arguments.json, results)
    except (ManifestError, StepFailedError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or arguments.json}: {error.strerror or error}", file=sys.stderr)
        return 1
    _print_summary(summarise(results), rows(results))
    if not results:
        print(f"expected pairs with {arguments.only!r} in their name, got none", file=sys.stderr)
    bad = [result["name"] for result in results if not result["sha256_ok"]]
    if bad:
        print(f"{len(bad)} of {len(results)} pairs failed or came out wrong: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad or not results else 0


def _results(arguments: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """A row for each pair, as soon as it is there."""
    if arguments.json:
        _write(arguments.json, [])  # Better to fail now than after an hour.
    directory = arguments.pairs or _own_pairs(scratch / "pairs", arguments.size)
    for pair in read_manifest(directory, arguments.only):
        yield attempted(pair, partial(one, pair, scratch, arguments))
    if arguments.large or (arguments.large is None and arguments.pairs is None):
        pair = Pair("huge_fp32", "huge", scratch / "large.old.safetensors", scratch / "large.new.safetensors")
        yield attempted(pair, partial(_large, pair, scratch, arguments))


def attempted(pair: Pair, measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, or a row without figures that says why there are none."""
    try:
        return measured()
    except (StepFailedError, OSError) as error:
        print(f"  {pair.name}: {error}", file=sys.stderr)
        return {
            "name": pair.name,
            "kind": pair.kind,
            "old_bytes": _size(pair.old),
            "new_bytes": _size(pair.new),
            "codec": "tensor1",
            **dict.fromkeys(field.name for field in fields(Measured)),
            "create_above_interpreter_mib": None,
            "entropy_bound_bytes": None,
            "encode_s": None,
            "verified_cpu_s": None,
            "baselines": {},
            "sha256_ok": False,
            "error": str(error),
        }


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _write(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """All figures so far, in place of the ones before: whoever stops the benchmark keeps what it measured."""
    document = {
        "pairs": results,
        "summary": {**summarise(results), "targets": [row.encode() for row in rows(results)]},
    }
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(document, indent=1) + "\n")
    draft.replace(path)


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
    run_module("tests.delta.pairs.catalogue", directory, size)
    return directory


def one(pair: Pair, scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All codecs on one pair. Raises StepFailedError where one of our own fails."""
    kind = pair.kind or figures("tests.bench.delta_kinds", pair.name, pair.old, pair.new)["kind"]
    measured, said = measure("tensor1", pair, scratch)
    new_bytes = pair.new.stat().st_size
    result: dict[str, Any] = {
        "name": pair.name,
        "kind": kind,
        "old_bytes": pair.old.stat().st_size,
        "new_bytes": new_bytes,
        "codec": "tensor1",
        **measured.encode(),
        "create_above_interpreter_mib": _above_interpreter(said),
        "entropy_bound_bytes": int(said["entropy_bound_bytes"]) if "entropy_bound_bytes" in said else None,
        "encode_s": round(said["encode_s"], 4),
        "verified_cpu_s": round(said["cpu_s"], 4),
        "baselines": {},
    }
    if arguments.portable:
        result["portable"] = measure("tensor1-portable", pair, scratch)[0].encode()
    if not arguments.no_baselines:
        _add_baselines(result, pair, scratch)
    return result


def _above_interpreter(said: dict[str, Any]) -> float:
    """MiB that creating took beyond a bare interpreter."""
    return round(float(said["peak_rss_mib"] - said["interpreter_rss_mib"]), 1)


def _add_baselines(result: dict[str, Any], pair: Pair, scratch: Path) -> None:
    largest = max(result["old_bytes"], result["new_bytes"])
    found = result["baselines"]
    for name in ("bsdiff4", *installed()):
        if name == "bsdiff4" and largest > BSDIFF4_LARGEST_BYTES:
            continue
        try:
            if name == "bsdiff4":
                measured, said = measure(name, pair, scratch)
                found[name] = measured.encode() | {"create_above_interpreter_mib": _above_interpreter(said)}
            else:
                found[name] = measure_command(name, pair, scratch).encode()
        except StepFailedError as error:
            found[name] = {"error": str(error)}
            print(f"  {pair.name}: {error}", file=sys.stderr)
    full = found.get("full-zstd19", {}).get("patch_bytes")
    result["full_bytes"] = min(full or result["new_bytes"], result["new_bytes"])
    # As `modelfleet delta create` does: the smaller of two candidates where trying both is cheap, in the memory of both.
    other = found.get("bsdiff4", {})
    if "patch_bytes" not in other or not is_bsdiff4_tried(result["old_bytes"], result["new_bytes"]):
        return
    for key in ("create_peak_rss_mib", "create_above_interpreter_mib"):
        result[f"tensor1_{key}"] = result[key]
        result[key] = max(result[key], other[key])
    if other["patch_bytes"] < result["patch_bytes"]:
        result["tensor1_bytes"] = result["patch_bytes"]
        result |= {"codec": "bsdiff4", "patch_bytes": other["patch_bytes"]}
        result |= {key: other[key] for key in ("apply_s", "apply_cpu_s", "apply_peak_rss_mib", "sha256_ok")}


def _large(pair: Pair, scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    size = arguments.large_bytes
    print(f"making a model of {size / (1 << 30):.1f} GiB ...", flush=True)
    try:
        run_module("tests.bench.delta_large_model", pair.old, pair.new, str(size))
        return one(pair, scratch, argparse.Namespace(**{**vars(arguments), "no_baselines": True}))
    finally:
        pair.old.unlink(missing_ok=True)
        pair.new.unlink(missing_ok=True)


def _line(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{result['name']:28} {result['kind']:16} FAILED: {result['error']}"
    new_bytes = max(result["new_bytes"], 1)
    baseline = result["baselines"].get("bsdiff4", {}).get("patch_bytes")
    against = f"{result['patch_bytes'] / baseline:7.4f} of bsdiff4" if baseline else " " * 18
    least = result["entropy_bound_bytes"]
    bound = f"(bound {100 * least / new_bytes:8.3f} %)" if least else " " * 18
    return (
        f"{result['name']:28} {result['kind']:16} {result['new_bytes'] / 1e6:8.1f} MB {result['codec']:8} "
        f"{100 * result['patch_bytes'] / new_bytes:8.3f} % {bound} {against}  "
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
