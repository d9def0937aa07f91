"""Every kind of change between versions: rebuilt byte for byte, with either coding, in no more than it may cost."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_client.wire.delta import Codec
from fleet.adapters import delta_files
from fleet.adapters.delta_tensor import Coding
from tests.delta.pairs import catalogue, training
from tests.delta.pairs.catalogue import Versions

# Patch bytes over new bytes for the small pairs, by kind: above what was measured, since they guard and do not boast.
CEILINGS = {
    "fp32": 0.65,
    "fp32-head": 0.02,
    "fp32-lora": 0.12,
    "fp32-pruned": 0.002,
    "fp16": 0.27,
    "fp16-lora": 0.22,
    "bf16": 0.13,
    "int8": 0.11,
    "int8-requantised": 0.22,
    "cast": 0.02,
    "fp32-to-int8": 0.02,
    "fp32-to-gguf": 0.01,
    "gguf-q8_0": 0.30,
    "gguf-q4_0": 0.30,
    "metadata": 0.002,
    "opaque": 0.50,
    "unrelated": 0.93,
    "identical": 0.0,
    "tiny": 1.0,
    "empty": 1.0,
}
# Header and digests.
LEAST_BYTES = 192


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("pairs")
    catalogue.write(found, catalogue.pairs(Versions(training.SMALL)))
    return found


def entries(directory: Path) -> Iterator[tuple[str, str, Path, Path]]:
    for entry in json.loads((directory / "manifest.json").read_text()):
        yield entry["name"], entry["kind"], directory / entry["old"], directory / entry["new"]


@pytest.mark.slow
@pytest.mark.parametrize("coding", list(Coding))
def test_every_pair__created_and_applied__the_new_file_at_a_fair_price(
    directory: Path, tmp_path: Path, coding: Coding
) -> None:
    dear = []
    for name, kind, old, new in entries(directory):
        made = delta_files.create(old, new, tmp_path / "patch", Codec.TENSOR1, coding)
        delta_files.apply(old, tmp_path / "patch", tmp_path / "made")
        assert (tmp_path / "made").read_bytes() == new.read_bytes(), name
        ceiling = CEILINGS[kind] * (1 if coding is Coding.PCODEC else 1.15)
        if made.patch_bytes > ceiling * made.new_bytes + LEAST_BYTES:
            dear.append((name, made.patch_bytes, made.new_bytes, ceiling))
    assert dear == []


def test_pairs__made_twice__the_same_bytes() -> None:
    tiny = training.Size(tokens=64, width=32, layers=1)
    assert list(catalogue.pairs(Versions(tiny))) == list(catalogue.pairs(Versions(tiny)))


def test_pairs__of_a_size__every_layout_covers_what_is_no_header(directory: Path) -> None:
    for name, kind, old, new in entries(directory):
        for path in (old, new) if kind not in {"tiny", "empty"} else ():
            layout = delta_files.layout_of(path)
            # In TFLite, scales and zero points are no tensors: 12 bytes for each row of 64.
            least = 0.9 if layout.format == "tflite" else 0.95
            assert layout.covered_bytes > least * layout.size, name
