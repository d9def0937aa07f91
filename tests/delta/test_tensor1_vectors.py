"""Released patches stay readable: frozen files, each with its old and new, that every later decoder must still apply.

`python -m tests.delta.test_tensor1_vectors` adds the vectors that are missing; it never changes one.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_client.wire import delta
from device_client.wire.delta import Codec
from device_client.wire.tensor1 import read_header
from device_client.wire.tensor1.format import VERSION
from fleet.adapters.delta_tensor import Coding
from tests.delta.pairs import files
from tests.delta.patches import Held, make, weights

DIRECTORY = Path(__file__).parents[1] / "vectors" / "tensor1"


def _cases() -> dict[str, tuple[bytes, bytes]]:
    """One for each way in which bytes are made."""
    one, two = weights(1, 24, 64), weights(2, 24, 64)
    nudged = one + two * np.float32(1e-3)
    product = (weights(3, 64, 4) @ weights(4, 4, 64)) * np.float32(1e-2)
    square = weights(5, 64, 64)
    broad = weights(7, 80, 128)
    uneven = weights(8, 80, 128) * np.exp(weights(9, 80, 1)) * np.exp(weights(10, 1, 128)) * np.float32(3e-3)
    uneven[5:9] = 0
    st = files.safetensors
    pruned = np.where(abs(square) < 0.7, np.float32(0), square)
    decayed = square.copy()
    for _ in range(20):
        decayed *= np.float32(1 - 3 * 2.0**-24)
    return {
        "same_f32": (st({"w": one}), st({"w": nudged})),
        "same_f16": (st({"w": one.astype("f2")}), st({"w": nudged.astype("f2")})),
        "same_bf16": (st({"w": files.bfloat16(one)}), st({"w": files.bfloat16(nudged)})),
        "grid_f16": (st({"w": broad.astype("f2")}), st({"w": (broad + uneven).astype("f2")})),
        "row_scale": (st({"w": square}), st({"w": square * (1 + weights(6, 64, 1) * np.float32(0.01))})),
        "low_rank": (st({"w": square}), st({"w": square + product})),
        "decay": (st({"w": square}), st({"w": decayed})),
        "prune": (st({"w": square}), st({"w": pruned})),
        "cast": (st({"w": square}), st({"w": square.astype("f2")})),
        "quantise": (files.onnx_file({"w": square})[0], files.onnx_int8({"w": square})),
        "quantise_margin": (files.onnx_file({"w": square})[0], files.onnx_int8({"w": square}, margin=1.07)),
        "quantise_columns": (
            files.onnx_file({"w": broad})[0],
            files.onnx_int8({"w": np.ascontiguousarray(broad.T)}),
        ),
        "cast_columns": (st({"w": broad}), st({"w": np.ascontiguousarray(broad.T.astype("f2"))})),
        "requantise": (files.onnx_int8({"w": square}), files.onnx_int8({"w": square}, margin=1.1)),
        "blocks_q8_0": (files.gguf({"w": square}, "q8_0"), files.gguf({"w": square + product}, "q8_0")),
        "pack_q8_0": (st({"w": square}), files.gguf({"w": square}, "q8_0")),
        "pack_q4_0": (st({"w": square.astype("f2")}), files.gguf({"w": square.astype("f2").astype("f4")}, "q4_0")),
        "text": (b"nothing in common", b"".join(b"line %d of a text\n" % (index % 40) for index in range(700))),
        "verbatim": (b"old", hashlib.shake_128(b"new").digest(300)),
        "empty": (b"old", b""),
    }


def _path(name: str, coding: Coding) -> Path:
    return DIRECTORY / f"v{VERSION}_{name}_{coding.value}.json"


def _write() -> None:
    for name, (old, new) in _cases().items():
        for coding in Coding:
            path = _path(name, coding)
            if not path.exists():
                patch, _ = make(old, new, coding=coding, block_bytes=4096)
                content = {
                    part: base64.b64encode(value).decode()
                    for part, value in (("old", old), ("new", new), ("patch", patch))
                }
                path.write_text(json.dumps(content, indent=1) + "\n")


def _load(path: Path) -> dict[str, bytes]:
    content: dict[str, Any] = json.loads(path.read_text())
    return {part: base64.b64decode(value) for part, value in content.items()}


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*.json")), ids=lambda path: path.stem)
def test_vector__of_a_released_format__is_still_applied(path: Path) -> None:
    case = _load(path)
    codec = Codec.TENSOR1 if path.stem.endswith(Coding.PCODEC.value) else Codec.TENSOR1_PORTABLE
    assert delta.announced_bytes(codec, case["patch"]) == len(case["new"])
    assert delta.apply(codec, case["old"], case["patch"], expected_bytes=len(case["new"])) == case["new"]
    assert read_header(Held(case["patch"])).old_sha256 == hashlib.sha256(case["old"]).digest()


def test_vectors__of_every_way_to_make_bytes__exist() -> None:
    assert all(_path(name, coding).exists() for name in _cases() for coding in Coding)


if __name__ == "__main__":
    _write()
