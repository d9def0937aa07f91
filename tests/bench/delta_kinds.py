"""Which kind of change is between two files, when nobody says: read from what their tensors are made of."""

import os
from collections import Counter
from pathlib import Path
from typing import Final

from fleet.adapters.delta_files import layout_of
from fleet.domain.layouts import Dtype, Layout

_SHORT: Final = {
    Dtype.FLOAT32: "fp32",
    Dtype.FLOAT16: "fp16",
    Dtype.BFLOAT16: "bf16",
    Dtype.INT8: "int8",
    Dtype.UINT8: "int8",
    Dtype.BLOCKS: "gguf",
}
# Words in a pair's name that say what its tensors do not.
_WORDS: Final = {
    "lora": "lora",
    "prune": "pruned",
    "head": "head",
    "meta": "metadata",
    "seed": "unrelated",
    "unrelated": "unrelated",
    "requant": "requantised",
}


def kind_of(name: str, old: Path, new: Path) -> str:
    """Such as `fp32`, `fp32-lora`, `cast` or `fp32-to-int8`."""
    before, after = _dominant(layout_of(old)), _dominant(layout_of(new))
    if before != after:
        return "fp32-to-int8" if (before, after) == ("fp32", "int8") else "cast"
    said = next((kind for word, kind in _WORDS.items() if word in name.lower()), "")
    if said in {"metadata", "unrelated"}:
        return said
    return f"{before}-{said}" if said else before


def _dominant(layout: Layout) -> str:
    if layout.format is None:
        return "opaque"
    sizes: Counter[str] = Counter()
    for segment in layout.segments:
        sizes[_SHORT.get(segment.dtype, segment.dtype.value)] += segment.length
    return sizes.most_common(1)[0][0] if sizes else "opaque"


def require_file(path: Path) -> Path:
    """The path, if a file is there that can be read."""
    if not path.is_file() or not os.access(path, os.R_OK):
        raise SystemExit(f"expected a readable file, got {path}")
    return path
