"""Who may let a rollout that waits for approval go on, and whether enough have.

Two people decide, or more: whoever started it never counts. An emergency needs one word of somebody who may do
everything; the caller checks that and the word is on record as what it was.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from fleet.domain.errors import ConflictError, ForbiddenError, InvalidInputError

MAX_APPROVALS: Final = 5
MAX_REASON_CHARS: Final = 500


@dataclass(frozen=True)
class Waiting:
    """A rollout that waits: by whom it was started, how many have to approve, who has."""

    created_by: str
    required: int
    given_by: frozenset[str]


@dataclass(frozen=True)
class Approved:
    """What one more approval leads to; `missing` is 0 when the rollout may start."""

    given: int
    required: int
    is_emergency: bool

    @property
    def missing(self) -> int:
        """How many approvals it still waits for."""
        return 0 if self.is_emergency else max(0, self.required - self.given)

    @property
    def sentence(self) -> str:
        """What people read."""
        if self.is_emergency:
            return f"an emergency: approved with {self.given} of {self.required} approvals"
        if self.missing:
            return f"approved by {self.given} of {self.required}; waits for {self.missing} more"
        return f"approved by {self.given} of {self.required}"


def required(policy: int, namespace: int) -> int:
    """How many approvals a rollout needs: its policy may ask for more than its namespace, never for less."""
    return max(policy, namespace)


def approve(waiting: Waiting, *, actor: str, reason: str, is_emergency: bool) -> Approved:
    """One more approval. Raises InvalidInputError without a reason, ForbiddenError for the wrong person, ConflictError
    for one who has approved already.
    """
    if not 0 < len(reason.strip()) <= MAX_REASON_CHARS:
        raise InvalidInputError(
            "reason_missing", f"expected a reason of 1 to {MAX_REASON_CHARS} characters, got {len(reason.strip())}"
        )
    if actor in waiting.given_by and not is_emergency:
        raise ConflictError("approved_already", f"expected somebody who has not approved yet, got {actor}")
    if actor == waiting.created_by and not is_emergency:
        raise ForbiddenError("approval_of_own", f"expected somebody else than {actor}, who started it")
    counted: Collection[str] = (waiting.given_by | {actor}) - {waiting.created_by}
    return Approved(len(counted), waiting.required, is_emergency)
