"""Which kind of change is between two files, when nobody says: `python -m tests.bench.delta_kinds NAME OLD NEW` prints it as JSON.

It is read from what the tensors are made of and, for a few of the largest that both files have under one name, from what
became of their numbers: pruned, changed by a matrix of low rank, partly changed, unrelated. The pair's name decides only what
numbers do not show: whether a quantised model was calibrated anew, and a merged adapter under the rounding of 16 bits.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fleet.adapters.delta_files import layout_of
from fleet.domain.layouts import Dtype, Layout, Segment
from tests.bench.delta_process import File

_SHORT: Final = {
    Dtype.FLOAT32: "fp32",
    Dtype.FLOAT16: "fp16",
    Dtype.BFLOAT16: "bf16",
    Dtype.INT8: "int8",
    Dtype.UINT8: "int8",
    Dtype.BLOCKS: "gguf",
}
_NUMBERS: Final = {
    Dtype.FLOAT32: "<f4",
    Dtype.FLOAT16: "<f2",
    Dtype.BFLOAT16: "<u2",
    Dtype.INT8: "i1",
    Dtype.UINT8: "u1",
}
_WORDS: Final = {"lora": "lora", "requant": "requantised"}
_COMPARED: Final = 12
_READ_BYTES: Final = 4 << 20
_EDGE: Final = 192
_MAX_RANK: Final = 64
_MANY: Final = 0.2
_PARTLY: Final = 0.5


def kind_of(name: str, old: Path, new: Path) -> str:
    """Such as `fp32`, `fp32-lora`, `cast` or `fp32-to-int8`."""
    if _same(old, new):
        return "identical"
    layouts = layout_of(old), layout_of(new)
    before, after = (_dominant(layout) for layout in layouts)
    if before != after:
        return "cast" if before == "fp32" and after in {"fp16", "bf16"} else f"{before}-to-{after}"
    said = _change(File(old), File(new), *layouts)
    if said in {"", "head"}:
        said = next((kind for word, kind in _WORDS.items() if word in name.lower()), said)
    return said if said in {"metadata", "unrelated"} else "-".join(filter(None, (before, said)))


def _same(old: Path, new: Path) -> bool:
    if old.stat().st_size != new.stat().st_size:
        return False
    with old.open("rb") as left, new.open("rb") as right:
        while content := left.read(_READ_BYTES):
            if content != right.read(_READ_BYTES):
                return False
    return True


def _dominant(layout: Layout) -> str:
    if layout.format is None:
        return "opaque"
    sizes: Counter[str] = Counter()
    for segment in layout.segments:
        sizes[_SHORT.get(segment.dtype, segment.dtype.value)] += segment.length
    return sizes.most_common(1)[0][0] if sizes else "opaque"


def _change(old: File, new: File, before: Layout, after: Layout) -> str:
    """What became of the largest tensors that both have; empty for the usual: many numbers changed a little."""
    known = {(item.name, item.dtype, item.shape): item for item in before.segments if item.name}
    pairs = [
        (known[item.name, item.dtype, item.shape], item)
        for item in after.segments
        if (item.name, item.dtype, item.shape) in known and item.dtype in _NUMBERS
    ]
    pairs.sort(key=lambda pair: -pair[1].length)
    read = [(_numbers(old, left), _numbers(new, right)) for left, right in pairs[:_COMPARED]]
    changed = [(left, right) for left, right in read if not np.array_equal(left, right)]
    if not read:
        return ""
    if not changed:
        if not _all_same(old, new, pairs):
            return "head"
        return "metadata" if len(pairs) == len(after.segments) else ""
    if all(_is_unrelated(left, right) for left, right in changed):
        return "unrelated"
    if all(_is_pruned(left, right) for left, right in changed):
        return "pruned"
    matrices = [pair for pair in changed if pair[0].ndim == 2 and min(pair[0].shape) > 2 * _MAX_RANK]
    if matrices and all(_is_low_rank(left, right) for left, right in matrices):
        return "lora"
    total = sum(left.size for left, _ in read)
    return "head" if sum(left.size for left, _ in changed) < _PARTLY * total else ""


def _all_same(old: File, new: File, pairs: Sequence[tuple[Segment, Segment]]) -> bool:
    return all(np.array_equal(_numbers(old, left), _numbers(new, right)) for left, right in pairs)


def _numbers(file: File, segment: Segment) -> np.ndarray[Any, Any]:
    """As much of a tensor as is compared: whole rows of a matrix, from its beginning."""
    width = np.dtype(_NUMBERS[segment.dtype]).itemsize
    columns = segment.shape[-1] if len(segment.shape) == 2 else 1
    rows = max(1, min(segment.elements // max(columns, 1), _READ_BYTES // (width * max(columns, 1))))
    content = file.read_at(segment.offset, min(segment.length, rows * columns * width))
    found: np.ndarray[Any, Any] = np.frombuffer(content, _NUMBERS[segment.dtype])
    if segment.dtype is Dtype.BFLOAT16:
        found = (found.astype(np.uint32) << 16).view(np.float32)
    found = found.astype(np.float64) if found.dtype.kind == "f" else found.astype(np.int16)
    return found.reshape(-1, columns) if columns > 1 and len(found) % columns == 0 else found


def _is_unrelated(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    a, b = (side.astype(np.float64).reshape(-1) for side in (left, right))
    spread = float(a.std() * b.std())
    return spread > 0 and abs(float(((a - a.mean()) * (b - b.mean())).mean())) < _MANY * spread


def _is_pruned(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    differ = left != right
    return bool((right[differ] == 0).all()) and float(differ.mean()) > _MANY


def _is_low_rank(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    """Whether what is left of the difference beyond a low rank is what rounding to float32 leaves."""
    corner = (right - left)[:_EDGE, :_EDGE].astype(np.float64)
    beyond = np.linalg.svd(corner, compute_uv=False)[_MAX_RANK:]
    left_over = float(np.sqrt((beyond**2).sum() / corner.size))
    rounding = float(np.abs(right[:_EDGE, :_EDGE]).max()) * 2.0**-24
    return left_over < rounding


if __name__ == "__main__":
    print(json.dumps({"kind": kind_of(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))}))
