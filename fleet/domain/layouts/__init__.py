"""Where the tensors of a file of weights lie, for whoever makes small deltas between two such files. Pure and bounded.

`describe` walks headers through `RandomAccess` and never reads tensor data of a file whose format it knows. A file that
it cannot understand is opaque, which is an answer and not an error.
"""

from fleet.domain.layouts.layout import (
    BlockField,
    BlockLayout,
    Dtype,
    Layout,
    Quantisation,
    RandomAccess,
    Segment,
)
from fleet.domain.layouts.reading import describe

__all__ = ["BlockField", "BlockLayout", "Dtype", "Layout", "Quantisation", "RandomAccess", "Segment", "describe"]
