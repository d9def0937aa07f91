"""Tries the known formats in turn, and takes a file that is none of them for opaque."""

from fleet.domain.layouts.layout import Layout, RandomAccess


def describe(file: RandomAccess, *, description: RandomAccess | None = None) -> Layout:
    """The layout of `file`. Raises nothing for any bytes.

    `description` is the model file that says what lies in `file`, for weights that say nothing of themselves: the ONNX
    graph of external data, the XML of an OpenVINO binary.
    """
    del description
    return Layout(file.size)
