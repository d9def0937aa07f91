"""Inference runtimes: one file each, found by what is installed. Importing this package imports none of them."""

from collections.abc import Mapping
from importlib.util import find_spec

from device_client.ports import Runtime


def installed(threads: int = 1) -> Mapping[str, Runtime]:
    """The runtimes that this environment has, by name."""
    found: dict[str, Runtime] = {}
    if find_spec("onnxruntime") is not None and find_spec("numpy") is not None:
        from device_client.runtimes.onnx import OnnxRuntime

        found["onnx"] = OnnxRuntime(threads=threads)
    return found
