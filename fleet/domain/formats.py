"""Which files may be released: formats allow-listed by content, never by name.

A deny-list of dangerous files fails (nine of nine hostile pickles were seen to pass one scanner or another), so the
list is of what is allowed, and everything else is refused. What no runtime of ours reads as data only, whatever it is
called, is not on it: pickle, joblib, PyTorch archives, Keras HDF5, NumPy object arrays.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Format(StrEnum):
    """A format of weights that can be released."""

    ONNX = "onnx"
    TFLITE = "tflite"
    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    OPENVINO = "openvino"


# What a runtime loads. A runtime that is not named here may come with any allowed format.
RUNTIME_FORMATS: Final[Mapping[str, frozenset[Format]]] = {
    "onnx": frozenset({Format.ONNX}),
    "tflite": frozenset({Format.TFLITE}),
    "litert": frozenset({Format.TFLITE}),
    "openvino": frozenset({Format.OPENVINO, Format.ONNX}),
    "llama": frozenset({Format.GGUF}),
}

# What the larger part of the weights must be made of, by the precision in a variant's name. Precisions that are not
# named here (`q4_k_m`, `mixed`) promise nothing that the file could contradict.
PRECISION_DTYPES: Final[Mapping[str, frozenset[str]]] = {
    "fp32": frozenset({"float32"}),
    "fp16": frozenset({"float16"}),
    "bf16": frozenset({"bfloat16"}),
    "int8": frozenset({"int8", "uint8"}),
    "int4": frozenset({"int4", "uint4"}),
}

# Operators outside these sets need code that does not come with the runtime.
ONNX_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
