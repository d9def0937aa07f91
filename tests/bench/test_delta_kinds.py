"""What kind of change is between two files, by what their numbers say and not by what somebody called them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.bench.delta_kinds import kind_of
from tests.delta.pairs import files

DICE = np.random.default_rng(6)


def drawn(*shape: int, spread: float = 0.05) -> np.ndarray:
    return (DICE.standard_normal(shape, dtype=np.float32) * np.float32(spread)).astype(np.float32)


BASE = {"embed": drawn(500, 160), "layer": drawn(300, 192), "bias": drawn(160)}
TUNED = {name: array + drawn(*array.shape, spread=1e-4) for name, array in BASE.items()}
MERGED = {**BASE, "layer": BASE["layer"] + drawn(300, 8, spread=0.01) @ drawn(8, 192, spread=0.1)}
PRUNED = {name: np.where(np.abs(array) < 0.03, np.float32(0), array) for name, array in BASE.items()}
HALF, BRAIN = (
    {name: cast(array) for name, array in BASE.items()}
    for cast in (lambda array: array.astype(np.float16), files.bfloat16)
)
TUNED_HALF = {name: array.astype(np.float16) for name, array in TUNED.items()}


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("fp32", BASE, TUNED),
        ("fp16", HALF, TUNED_HALF),
        ("fp32-lora", BASE, MERGED),
        ("fp32-pruned", BASE, PRUNED),
        ("fp32-head", BASE, {**BASE, "bias": TUNED["bias"]}),
        ("unrelated", BASE, {name: drawn(*array.shape) for name, array in BASE.items()}),
        ("metadata", BASE, dict(reversed(BASE.items()))),
        ("identical", BASE, BASE),
        ("cast", BASE, HALF),
        ("cast", BASE, BRAIN),
        ("fp16-to-fp32", HALF, BASE),
        ("fp16-to-bf16", HALF, BRAIN),
    ],
    ids=[
        "fine-tuned",
        "half fine-tuned",
        "merged adapter",
        "pruned",
        "one tensor",
        "another seed",
        "another order",
        "the same file",
        "to half",
        "to brain",
        "from half",
        "half to brain",
    ],
)
def test_kind__of_two_files__is_what_became_of_the_numbers(
    tmp_path: Path, kind: str, old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> None:
    (tmp_path / "old").write_bytes(files.safetensors(old))
    (tmp_path / "new").write_bytes(files.safetensors(new))
    assert kind_of("pruned_head_of_another_seed", tmp_path / "old", tmp_path / "new") == kind


def test_kind__float_model_that_was_quantised__says_from_what_to_what(tmp_path: Path) -> None:
    (tmp_path / "fp32").write_bytes(files.onnx_file(BASE)[0])
    (tmp_path / "int8").write_bytes(files.onnx_int8(BASE))
    (tmp_path / "gguf").write_bytes(files.gguf(BASE, "q8_0"))
    (tmp_path / "other").write_bytes(bytes(range(256)))
    made = {new: kind_of("", tmp_path / "fp32", tmp_path / new) for new in ("int8", "gguf", "other")}
    assert made == {"int8": "fp32-to-int8", "gguf": "fp32-to-gguf", "other": "fp32-to-opaque"}
