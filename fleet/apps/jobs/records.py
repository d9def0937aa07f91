"""What `jobs` tells workers and pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class JobRecord:
    """A claim on one piece of work. `fence` and `owner` prove that the claim is still the current one."""

    id: int
    kind: str
    key: str
    payload: Mapping[str, object]
    owner: str
    fence: int
    attempts: int
    max_attempts: int
    lease_until: datetime


@dataclass(frozen=True)
class JobStatus:
    """A row of work as pages show it."""

    id: int
    kind: str
    key: str
    state: str
    attempts: int
    max_attempts: int
    owner: str
    run_after: datetime
    lease_until: datetime | None
    error: str
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class AnswerRecord:
    """What a job found out, and when."""

    answer: Mapping[str, Any]
    answered_at: datetime
