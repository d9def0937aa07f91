"""Pairs of versions as fleets have them, each with what kind of change it is. Deterministic for a size and seed.

`python -m tests.delta.pairs.catalogue DIR small|full` writes the files and a `manifest.json` for the benchmark.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from tests.delta.pairs import files, training
from tests.delta.pairs.tflite_file import tflite_int8
from tests.delta.pairs.training import Size, Weights


@dataclass(frozen=True)
class Pair:
    """Two versions of a file. `old_beside` and `new_beside` are the files that describe them, where there are any."""

    name: str
    kind: str
    suffix: str
    old: bytes
    new: bytes
    old_beside: bytes = b""
    new_beside: bytes = b""
    beside_suffix: str = ""


@dataclass(frozen=True)
class Versions:
    """One trained model and what became of it."""

    size: Size
    seed: int = 3

    def _dice(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream])

    @cached_property
    def base(self) -> Weights:
        drawn = training.init(self.size, self._dice(0))
        return training.adamw(self.size, drawn, self._dice(1), 30, 1e-3)

    @cached_property
    def tuned(self) -> Weights:
        return training.adamw(self.size, self.base, self._dice(2), 40, 2e-5)

    @cached_property
    def tuned_further(self) -> Weights:
        return training.adamw(self.size, self.tuned, self._dice(3), 40, 2e-5)

    @cached_property
    def descended(self) -> Weights:
        return training.sgd(self.size, self.base, self._dice(4), 30, 1e-3)

    @cached_property
    def head(self) -> Weights:
        return training.adamw(self.size, self.base, self._dice(5), 20, 1e-3, only="head.")

    @cached_property
    def merged(self) -> Weights:
        return training.lora(self.size, self.base, self._dice(6), 20, 3e-2)

    @cached_property
    def pruned(self) -> Weights:
        return {name: _pruned(array) for name, array in self.base.items()}

    @cached_property
    def other(self) -> Weights:
        drawn = training.init(self.size, self._dice(7))
        return training.adamw(self.size, drawn, self._dice(8), 30, 1e-3)

    @cached_property
    def grown(self) -> Weights:
        """Twenty more tokens, a renamed head of more classes."""
        new = dict(self.tuned)
        more = self._dice(9).standard_normal((20, self.size.width), dtype=np.float32) * np.float32(0.05)
        new["embed.weight"] = np.concatenate([new["embed.weight"], more])
        new["classifier.weight"] = np.concatenate([new.pop("head.weight"), more[:4]])
        new["classifier.bias"] = np.concatenate([new.pop("head.bias"), more[0, :4]])
        return new


def _pruned(array: np.ndarray) -> np.ndarray:
    if array.ndim == 1:
        return array
    return np.where(np.abs(array) < np.quantile(np.abs(array), 0.5), np.float32(0), array)


def _half(weights: Weights) -> Weights:
    return {name: array.astype(np.float16) for name, array in weights.items()}


def _brain(weights: Weights) -> Weights:
    return {name: files.bfloat16(array) for name, array in weights.items()}


def _shuffled(weights: Weights, seed: int) -> Weights:
    names = sorted(weights)
    np.random.default_rng(seed).shuffle(names)
    return {name: weights[name] for name in names}


def _shard(weights: Weights, index: int) -> Weights:
    return dict(list(weights.items())[index::2])


def _onnx(weights: Weights, producer: str = "trainer") -> bytes:
    return files.onnx_file(weights, producer=producer)[0]


def pairs(versions: Versions) -> Iterator[Pair]:
    """All of them, one after the other."""
    base, tuned = versions.base, versions.tuned
    for name, kind, old, new in (
        ("adamw", "fp32", base, tuned),
        ("adamw_further", "fp32", tuned, versions.tuned_further),
        ("sgd", "fp32", base, versions.descended),
        ("head", "fp32-head", base, versions.head),
        ("lora", "fp32-lora", base, versions.merged),
        ("prune50", "fp32-pruned", base, versions.pruned),
        ("other_seed", "unrelated", base, versions.other),
    ):
        yield Pair(f"{name}_onnx32", kind, ".onnx", _onnx(old), _onnx(new))
    st, half, brain = files.safetensors, _half, _brain
    yield Pair("adamw_fp16", "fp16", ".safetensors", st(half(base)), st(half(tuned)))
    yield Pair("lora_fp16", "fp16-lora", ".safetensors", st(half(base)), st(half(versions.merged)))
    yield Pair("adamw_bf16", "bf16", ".safetensors", st(brain(base)), st(brain(tuned)))
    yield Pair("adamw_int8", "int8", ".onnx", files.onnx_int8(base), files.onnx_int8(tuned))
    yield Pair(
        "requantised_int8", "int8-requantised", ".onnx", files.onnx_int8(base), files.onnx_int8(base, margin=1.1)
    )
    yield Pair("fp32_to_fp16", "cast", ".safetensors", st(base), st(half(base)))
    yield Pair("fp32_to_bf16", "cast", ".safetensors", st(base), st(brain(base)))
    yield Pair("fp32_to_int8", "fp32-to-int8", ".onnx", _onnx(base), files.onnx_int8(base))
    yield Pair("fp32_to_q8_0", "fp32-to-gguf", ".gguf", files.gguf(base, "f32"), files.gguf(base, "q8_0"))
    for kind in ("q8_0", "q4_0"):
        yield Pair(f"adamw_{kind}", f"gguf-{kind}", ".gguf", files.gguf(base, kind), files.gguf(tuned, kind))
    yield Pair("adamw_tflite8", "int8", ".tflite", tflite_int8(base), tflite_int8(tuned))
    yield Pair("shuffled_order", "fp32", ".safetensors", st(_shuffled(base, 1)), st(_shuffled(tuned, 2)))
    yield Pair("renamed_resized", "fp32", ".safetensors", st(base), st(versions.grown))
    yield Pair("shard_2", "fp32", ".safetensors", st(_shard(base, 1)), st(_shard(tuned, 1)))
    yield Pair("metadata_only", "metadata", ".onnx", _onnx(base), _onnx(base, "trainer of another version"))
    yield Pair("opaque_fp32", "opaque", ".bin", files.raw(base), files.raw(tuned))
    yield Pair("identical", "identical", ".onnx", _onnx(base), _onnx(base))
    yield Pair("tiny", "tiny", ".bin", b"one", b"other")
    yield Pair("emptied", "empty", ".safetensors", st(base), b"")
    yield Pair("from_empty", "empty", ".bin", b"", b"something")
    before, after = (files.onnx_file(weights, external="weights.data") for weights in (base, tuned))
    yield Pair("external_fp32", "fp32", ".onnx.data", before[1], after[1], before[0], after[0], ".onnx")


def large_pairs(versions: Versions) -> Iterator[Pair]:
    """One of each fine-tuned kind, large enough to compare times."""
    base, tuned = versions.base, versions.tuned
    yield Pair("large_fp32", "fp32", ".onnx", _onnx(base), _onnx(tuned))
    yield Pair("large_fp16", "fp16", ".safetensors", files.safetensors(_half(base)), files.safetensors(_half(tuned)))
    yield Pair("large_bf16", "bf16", ".safetensors", files.safetensors(_brain(base)), files.safetensors(_brain(tuned)))
    yield Pair("large_int8", "int8", ".onnx", files.onnx_int8(base), files.onnx_int8(tuned))


def write(directory: Path, found: Iterable[Pair]) -> list[dict[str, str]]:
    """Write files and manifest; returns the manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    manifest: list[dict[str, str]] = []
    for pair in found:
        entry = {"name": pair.name, "kind": pair.kind}
        for side, content, beside in (("old", pair.old, pair.old_beside), ("new", pair.new, pair.new_beside)):
            path = directory / f"{pair.name}.{side}{pair.suffix}"
            path.write_bytes(content)
            if beside:
                (directory / f"{pair.name}.{side}{pair.beside_suffix}").write_bytes(beside)
            entry[side] = path.name
        manifest.append(entry)
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def main(directory: Path, size: str) -> None:
    """Write the small ones, or the full-size ones and the large ones."""
    if size == "small":
        write(directory, pairs(Versions(training.SMALL)))
    else:
        write(directory, chain(pairs(Versions(training.FULL)), large_pairs(Versions(training.LARGE))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
