"""Writes a pair of very large models: `python -m tests.bench.delta_large_model OLD NEW BYTES`. A tensor is in memory, no file is."""

import json
import struct
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

ROWS, COLUMNS = 4_096, 1_024


def write(old: Path, new: Path, size: int) -> None:
    """float32 matrices: most of them fine-tuned a little, every fourth one not at all."""
    each = ROWS * COLUMNS * 4
    count = max(size // each, 1)
    with old.open("wb") as before, new.open("wb") as after:
        for out in (before, after):
            _write_header(out, count, each)
        for index in range(count):
            dice = np.random.default_rng([5, index])
            weights = dice.standard_normal((ROWS, COLUMNS), dtype=np.float32) * np.float32(0.03)
            before.write(weights.tobytes())
            if index % 4:
                weights += dice.standard_normal((ROWS, COLUMNS), dtype=np.float32) * np.float32(2e-5)
            after.write(weights.tobytes())


def _write_header(out: BinaryIO, count: int, each: int) -> None:
    header = {
        f"layers.{index}.weight": {
            "dtype": "F32",
            "shape": [ROWS, COLUMNS],
            "data_offsets": [index * each, (index + 1) * each],
        }
        for index in range(count)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
