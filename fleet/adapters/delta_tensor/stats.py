"""What an encoder says of the patch that it made, tensor by tensor."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorStats:
    """One tensor's share of a patch. `bits_per_weight` counts its residuals and parameters."""

    name: str
    dtype: str
    elements: int
    bytes: int
    predictor: str
    patch_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Patch bits for each of its elements."""
        return 8 * self.patch_bytes / self.elements if self.elements else 0.0


@dataclass(frozen=True, slots=True)
class EncodeStats:
    """A whole patch: its tensors in the order of the new file, and what the rest took.

    `taken_as_bytes` counts tensors that a patch had no instruction for: they are coded as bytes that are none.
    """

    old_bytes: int
    new_bytes: int
    patch_bytes: int
    copied_bytes: int
    verbatim: bool
    needs_pcodec: bool
    tensors: tuple[TensorStats, ...] = ()
    taken_as_bytes: int = 0
