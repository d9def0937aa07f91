"""Tensor-aware lossless patches: the format and its decoder. Pure: everything it touches is handed to it.

`decoder` is where to start; `format` is the contract. A patch codes the difference between the numbers of two files of
weights, wherever those numbers stand: no model format is known here.
"""

from device_client.wire.tensor1.decoder import Checkpoint, apply, check_base, decode, read_header
from device_client.wire.tensor1.format import MAGIC, Flag, Header
from device_client.wire.tensor1.io import BlockWriter, RandomAccess

__all__ = [
    "MAGIC",
    "BlockWriter",
    "Checkpoint",
    "Flag",
    "Header",
    "RandomAccess",
    "apply",
    "check_base",
    "decode",
    "read_header",
]
