"""The blocks of ggml's quantised tensors: which bytes are scales and which are weights.

Structures are those of ggml/src/ggml-common.h (ggml-org/llama.cpp, MIT). Scales and weights have quite different
statistics, so whoever predicts and codes them does better to take them apart.
"""

from collections.abc import Mapping
from typing import Final

from fleet.domain.inspection.gguf import TYPES
from fleet.domain.layouts.layout import BlockField, BlockLayout, Dtype

_F16, _F32, _U8, _I8, _U16, _I16 = (
    Dtype.FLOAT16,
    Dtype.FLOAT32,
    Dtype.UINT8,
    Dtype.INT8,
    Dtype.UINT16,
    Dtype.INT16,
)
# In the order of the structure's members: name, element, count.
_MEMBERS: Final[Mapping[str, tuple[tuple[str, Dtype, int], ...]]] = {
    "q4_0": (("d", _F16, 1), ("qs", _U8, 16)),
    "q4_1": (("d", _F16, 1), ("m", _F16, 1), ("qs", _U8, 16)),
    "q5_0": (("d", _F16, 1), ("qh", _U8, 4), ("qs", _U8, 16)),
    "q5_1": (("d", _F16, 1), ("m", _F16, 1), ("qh", _U8, 4), ("qs", _U8, 16)),
    "q8_0": (("d", _F16, 1), ("qs", _I8, 32)),
    "q8_1": (("d", _F16, 1), ("s", _F16, 1), ("qs", _I8, 32)),
    "q2_k": (("scales", _U8, 16), ("qs", _U8, 64), ("d", _F16, 1), ("dmin", _F16, 1)),
    "q3_k": (("hmask", _U8, 32), ("qs", _U8, 64), ("scales", _U8, 12), ("d", _F16, 1)),
    "q4_k": (("d", _F16, 1), ("dmin", _F16, 1), ("scales", _U8, 12), ("qs", _U8, 128)),
    "q5_k": (("d", _F16, 1), ("dmin", _F16, 1), ("scales", _U8, 12), ("qh", _U8, 32), ("qs", _U8, 128)),
    "q6_k": (("ql", _U8, 128), ("qh", _U8, 64), ("scales", _I8, 16), ("d", _F16, 1)),
    "q8_k": (("d", _F32, 1), ("qs", _I8, 256), ("bsums", _I16, 16)),
    "iq2_xxs": (("d", _F16, 1), ("qs", _U16, 32)),
    "iq2_xs": (("d", _F16, 1), ("qs", _U16, 32), ("scales", _U8, 8)),
    "iq2_s": (("d", _F16, 1), ("qs", _U8, 64), ("qh", _U8, 8), ("scales", _U8, 8)),
    "iq3_xxs": (("d", _F16, 1), ("qs", _U8, 96)),
    "iq3_s": (("d", _F16, 1), ("qs", _U8, 64), ("qh", _U8, 8), ("signs", _U8, 32), ("scales", _U8, 4)),
    "iq1_s": (("d", _F16, 1), ("qs", _U8, 32), ("qh", _U16, 8)),
    "iq1_m": (("qs", _U8, 32), ("qh", _U8, 16), ("scales", _U8, 8)),
    "iq4_nl": (("d", _F16, 1), ("qs", _U8, 16)),
    "iq4_xs": (("d", _F16, 1), ("scales_h", _U16, 1), ("scales_l", _U8, 4), ("qs", _U8, 128)),
    "tq1_0": (("qs", _U8, 48), ("qh", _U8, 4), ("d", _F16, 1)),
    "tq2_0": (("qs", _U8, 64), ("d", _F16, 1)),
    "mxfp4": (("e", _U8, 1), ("qs", _U8, 16)),
}


def _block(name: str, elements: int, length: int) -> BlockLayout:
    fields: list[BlockField] = []
    offset = 0
    for member, dtype, count in _MEMBERS[name]:
        fields.append(BlockField(member, offset, dtype, count))
        offset = offset + fields[-1].length
    return BlockLayout(name, elements, length, tuple(fields))


BLOCKS: Final[Mapping[str, BlockLayout]] = {
    name: _block(name, elements, length) for name, elements, length in TYPES.values() if elements > 1
}
