"""Keeps the arrays' memory between blocks, instead of having it from the kernel anew for each.

glibc maps what is large, gives it back when it is freed, and gets it again as zeroed pages: a third of the CPU time of applying
a patch. Once something larger that was mapped has been freed, it takes what is smaller from its own heap, and keeps twice as
much of that. So one array is made and freed that nobody touches: it takes no memory, and elsewhere it does nothing.
"""

from functools import cache
from typing import Final

# A block's arrays, all of them; glibc follows up to 32 MiB.
_LARGEST: Final = 16 << 20


@cache
def keep_freed_memory() -> None:
    """Once in a process, where numpy is loaded anyway."""
    import numpy as np

    np.empty(_LARGEST, dtype=np.uint8)
