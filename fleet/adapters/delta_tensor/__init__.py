"""Makes `tensor1` patches: what belongs to what, what predicts it best, and the blocks that follow.

`encode` reads both files in windows and writes the patch as it goes; its memory does not grow with the files. The same
inputs give the same bytes. The format, and what undoes all this, is `device_client.wire.tensor1`.
"""

from fleet.adapters.delta_tensor import threads
from fleet.adapters.delta_tensor.encoder import encode
from fleet.adapters.delta_tensor.residual_coding import Coding
from fleet.adapters.delta_tensor.stats import EncodeStats, TensorStats

__all__ = ["Coding", "EncodeStats", "TensorStats", "encode", "threads"]
