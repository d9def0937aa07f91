"""Imported before numpy: its BLAS is to keep to one thread, unless the environment says otherwise.

The encoder has its own threads. Those of OpenBLAS spin while they wait, which on a busy machine took three quarters of the CPU
time of planning a patch. Where numpy was imported before, this changes nothing.
"""

import os
from typing import Final

# How many do the encoder's work, beside the one that hands it out.
THREADS: Final = 2

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
