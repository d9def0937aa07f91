"""What there is to know about a plan before it starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Whether a finding refuses the plan."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing to know about a plan before it starts."""

    level: Level
    code: str
    sentence: str

    @classmethod
    def decode(cls, stored: Mapping[str, str]) -> "Finding":
        """One that was stored by the names of its fields."""
        return cls(Level(stored["level"]), stored["code"], stored["sentence"])
