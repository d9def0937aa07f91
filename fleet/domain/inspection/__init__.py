"""Looks into files that somebody wants to release, and refuses what is not what it says. Pure, bounded, header-only.

Nothing here loads a model or runs a byte of it. Readers walk the structure and skip tensor data by its length, so a file
of many gigabytes costs a few reads. Whatever a file claims is checked against its real length before it is believed.
"""

from fleet.domain.inspection.files import ByteSource, Inspection, TensorInfo
from fleet.domain.inspection.plain import inspect_companion
from fleet.domain.inspection.weights import inspect_weights, require_agreement

__all__ = ["ByteSource", "Inspection", "TensorInfo", "inspect_companion", "inspect_weights", "require_agreement"]
