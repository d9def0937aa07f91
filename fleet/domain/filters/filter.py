"""A filter that was read: its text, its tree, and the question it asks. There is no other way to make one."""

from dataclasses import dataclass, field

from fleet.domain.filters.parser import parse
from fleet.domain.filters.predicate import Described, Predicate, objection, predicate
from fleet.domain.filters.syntax import Node


@dataclass(frozen=True)
class Filter:
    """Which devices are meant. Two filters are equal if their trees are, however they were written."""

    root: Node
    text: str = field(compare=False)
    _asks: Predicate = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Filter | None":
        """Read a filter; None for an empty one, which means every device. Raises `FilterError`."""
        if not text.strip():
            return None
        root = parse(text)
        return cls(root, text.strip(), predicate(root))

    def matches(self, device: Described) -> bool:
        """Whether this device is meant."""
        return self._asks(device)

    def objection(self, device: Described) -> str:
        """Why a device that does not match is not meant, as a sentence for people."""
        return objection(self.root, device)
