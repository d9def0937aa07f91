"""Makes the demo's model versions on disk, ready for `modelfleet push`: `python -m fleet.demo.models OUT_DIR`.

Per version it writes `OUT_DIR/v<n>/` with `modelfleet.json` and one directory per variant (`model.onnx`,
`golden.json`, `labels.txt`). `OUT_DIR/build.json` is written last and says what was built from what: while its key and
every file's hash still match, nothing is trained again. Deltas are only measured here, for the table; the server
builds its own.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path

import bsdiff4
import numpy as np

from fleet.demo import digits, golden, onnx_export, trainer
from fleet.demo.digits import LABELS, PIXELS, Samples
from fleet.demo.golden import FLOAT_TOLERANCE, INT8_TOLERANCE, Tolerance
from fleet.demo.trainer import Network

BUILD_FILE = "build.json"
DELTA_PAIRS = (("1", "2"), ("2", "3"), ("2", "4"))
LATENCY_RUNS = 500
# Version 5 is version 2 that looks at every image in thousands of exposures: as accurate, and a hundred times the work.
# One inference keeps a processor busy for tens of milliseconds; the policy of its rollout allows five.
SLOW, SLOW_FROM = "5", "2"
SLOW_SAMPLES = 40
SLOW_RUNS = 10
# All that decides the bytes of a build, besides the data and the libraries.
SOURCES = ("digits.py", "trainer.py", "onnx_export.py", "golden.py", "models.py")
LIBRARIES = ("numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class VariantRecipe:
    """How one variant is exported from a trained network."""

    runtime: str
    precision: str
    hardware: str
    export: Callable[[Network, int], bytes]
    tolerance: Tolerance
    slow_views: int

    @property
    def slug(self) -> str:
        return f"{self.runtime}-{self.precision}-{self.hardware}"


VARIANTS = (
    VariantRecipe("onnx", "fp32", "any", onnx_export.float_model, FLOAT_TOLERANCE, slow_views=1024),
    VariantRecipe("onnx", "int8", "any", onnx_export.int8_model, INT8_TOLERANCE, slow_views=3072),
)


@dataclass(frozen=True)
class BuiltVariant:
    """One variant of one version on disk; `accuracy` is on the held-out pool, 0..1."""

    version: str
    variant: str
    accuracy: float
    model_bytes: int
    sha256: str


@dataclass(frozen=True)
class Build:
    """What `build` left in the output directory, and whether it had to train for it."""

    variants: tuple[BuiltVariant, ...]
    cached: bool


def version_dir(out_dir: Path, version: str) -> Path:
    """Where a version's files are; this is what `modelfleet push` is given."""
    return out_dir / f"v{version}"


def model_path(out_dir: Path, version: str, variant: str) -> Path:
    """The weights file of one variant."""
    return version_dir(out_dir, version) / variant / "model.onnx"


def build(out_dir: Path) -> Build:
    """Trains and writes every version, or finds that the directory already holds exactly that."""
    key = _build_key()
    found = _read_build(out_dir, key)
    if found is not None:
        return Build(variants=found, cached=True)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / BUILD_FILE).unlink(missing_ok=True)
    parts = digits.split(digits.load())
    written: dict[str, bytes] = {}
    variants = []
    networks = trainer.train_versions(parts.train)
    for version, network in {**networks, SLOW: networks[SLOW_FROM]}.items():
        for recipe in VARIANTS:
            model = recipe.export(network, recipe.slow_views if version == SLOW else 1)
            folder = f"v{version}/{recipe.slug}"
            written[f"{folder}/model.onnx"] = model
            written[f"{folder}/labels.txt"] = "".join(f"{label}\n" for label in LABELS).encode()
            written[f"{folder}/golden.json"] = golden.golden_file(
                model, golden.one_per_digit(parts.train), recipe.tolerance
            )
            pool = parts.pool.take(np.arange(SLOW_SAMPLES)) if version == SLOW else parts.pool
            variants.append(_built(version, recipe, model, pool))
        written[f"v{version}/modelfleet.json"] = _push_file()
    for name, content in written.items():
        _write(out_dir / name, content)
    record = {
        "key": key,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in written.items()},
        "variants": [asdict(variant) for variant in variants],
    }
    _write(out_dir / BUILD_FILE, json.dumps(record, indent=2).encode() + b"\n")
    return Build(variants=tuple(variants), cached=False)


def delta_bytes(out_dir: Path, old: str, new: str, variant: str) -> int:
    """Size of the bsdiff4 patch between two versions' weights files."""
    old_model = model_path(out_dir, old, variant).read_bytes()
    new_model = model_path(out_dir, new, variant).read_bytes()
    return len(bsdiff4.diff(old_model, new_model))


def latency_ms(model: bytes, samples: Samples, runs: int = LATENCY_RUNS) -> tuple[float, float]:
    """Median and 95th percentile of single inferences on one thread, in milliseconds."""
    running = golden.session(model)
    rows = samples.images.astype(np.float32).reshape(-1, 1, PIXELS)
    taken_ms = []
    for run in range(runs):
        started_s = time.perf_counter()
        running.run(["scores"], {"image": rows[run % len(rows)]})
        taken_ms.append((time.perf_counter() - started_s) * 1000)
    return float(np.percentile(taken_ms, 50)), float(np.percentile(taken_ms, 95))


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds, then prints what was built; returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m fleet.demo.models", description="Trains the demo's models.")
    parser.add_argument("out_dir", type=Path, help="directory to write v1 .. v5 to")
    parser.add_argument("--no-measure", action="store_true", help="print no latencies and no delta sizes")
    options = parser.parse_args(arguments)
    started_s = time.monotonic()
    try:
        built = build(options.out_dir)
    except OSError as error:
        print(f"cannot write the demo's models: {error}", file=sys.stderr)
        return 1
    made = "found" if built.cached else "trained"
    print(f"{made} {len(built.variants)} model files in {time.monotonic() - started_s:.1f} s at {options.out_dir}")
    _print_variants(options.out_dir, built, measure=not options.no_measure)
    if not options.no_measure:
        _print_deltas(options.out_dir)
    return 0


def _print_variants(out_dir: Path, built: Build, *, measure: bool) -> None:
    pool = digits.split(digits.load()).pool
    print(f"\n{'version':8}{'variant':16}{'accuracy':>9}{'bytes':>11}{'p50 ms':>9}{'p95 ms':>9}")
    for item in built.variants:
        latency = ""
        if measure:
            model = model_path(out_dir, item.version, item.variant).read_bytes()
            p50_ms, p95_ms = latency_ms(model, pool, SLOW_RUNS if item.version == SLOW else LATENCY_RUNS)
            latency = f"{p50_ms:9.3f}{p95_ms:9.3f}"
        print(f"v{item.version:7}{item.variant:16}{item.accuracy:9.1%}{item.model_bytes:11,}{latency}")


def _print_deltas(out_dir: Path) -> None:
    print(f"\n{'delta':10}{'variant':16}{'bsdiff4':>11}{'of full':>9}")
    for old, new in DELTA_PAIRS:
        for recipe in VARIANTS:
            size = delta_bytes(out_dir, old, new, recipe.slug)
            full = model_path(out_dir, new, recipe.slug).stat().st_size
            print(f"v{old} -> v{new:3}{recipe.slug:16}{size:11,}{size / full:9.1%}")


def _built(version: str, recipe: VariantRecipe, model: bytes, pool: Samples) -> BuiltVariant:
    return BuiltVariant(
        version=version,
        variant=recipe.slug,
        accuracy=golden.accuracy(model, pool),
        model_bytes=len(model),
        sha256=hashlib.sha256(model).hexdigest(),
    )


def _push_file() -> bytes:
    """What `modelfleet push` reads: the variants with their directories, and the contract that all of them keep."""
    document = {
        "variants": [
            {
                "dir": recipe.slug,
                "runtime": recipe.runtime,
                "precision": recipe.precision,
                "hardware": recipe.hardware,
                "weights": "model.onnx",
            }
            for recipe in VARIANTS
        ],
        "contract": {
            "inputs": {"image": ["float32", [1, PIXELS]]},
            "outputs": {"scores": ["float32", [1, len(LABELS)]]},
        },
        "labels": "labels.txt",
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _build_key() -> str:
    """A hash over all that decides the bytes: these modules, the data and the libraries' releases."""
    digest = hashlib.sha256(digits.file_bytes())
    for source in SOURCES:
        digest.update(resources.files("fleet.demo").joinpath(source).read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library}={metadata.version(library)};".encode())
    return digest.hexdigest()


def _read_build(out_dir: Path, key: str) -> tuple[BuiltVariant, ...] | None:
    """The variants of a finished build with this key whose files are all intact, else None."""
    try:
        record = json.loads((out_dir / BUILD_FILE).read_bytes())
        if record["key"] != key:
            return None
        for name, expected in record["files"].items():
            if hashlib.sha256((out_dir / name).read_bytes()).hexdigest() != expected:
                return None
        return tuple(BuiltVariant(**variant) for variant in record["variants"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
