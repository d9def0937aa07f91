"""What `audit` tells others."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class EntryRecord:
    """One act: who did what to what, and when."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, object]


@dataclass(frozen=True)
class BriefEntry:
    """That something was done, and when."""

    id: int
    at: datetime
    action: str
