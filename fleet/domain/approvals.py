"""Who may let a rollout that waits for approval go on, and whether enough have.

Two people decide, or more: whoever started it never counts, whichever of their sessions and tokens they use. An
emergency needs one word of somebody who may do everything; the caller checks that and the word is on record as what it
was.
"""

from dataclasses import dataclass
from typing import Final

from fleet.domain.errors import ConflictError, ForbiddenError, InvalidInputError

MAX_APPROVALS: Final = 5
MAX_REASON_CHARS: Final = 500


@dataclass(frozen=True)
class Actor:
    """Whoever acts: the name that is on record, and the identity of the person behind it, whose sessions and tokens all
    have the same one. It is empty for a credential of which nobody said whose it is.
    """

    name: str
    identity: str = ""

    def is_same_as(self, other: "Actor") -> bool:
        """Whether one person may stand behind both."""
        return self.name == other.name or bool(self.identity and self.identity == other.identity)


def person(user_id: object) -> str:
    """The identity of a user of the server. Not by name: names can be changed, and given to others."""
    return f"user#{user_id}"


@dataclass(frozen=True)
class Waiting:
    """A rollout that waits: by whom it was started, how many have to approve, who has."""

    starter: Actor
    required: int
    given_by: tuple[Actor, ...] = ()


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


def approve(waiting: Waiting, *, by: Actor, reason: str, is_emergency: bool) -> Approved:
    """One more approval. Raises InvalidInputError without a reason, ForbiddenError for the wrong person or for nobody in
    particular, ConflictError for one who has approved already.
    """
    if not 0 < len(reason.strip()) <= MAX_REASON_CHARS:
        raise InvalidInputError(
            "reason_missing", f"expected a reason of 1 to {MAX_REASON_CHARS} characters, got {len(reason.strip())}"
        )
    has_approved = any(by.is_same_as(other) for other in waiting.given_by)
    is_own = by.is_same_as(waiting.starter)
    if not is_emergency:
        require_person(by)
        if has_approved:
            raise ConflictError("approved_already", f"expected somebody who has not approved yet, got {by.name}")
        if is_own:
            raise ForbiddenError("approval_of_own", f"expected somebody else than {by.name}, who started it")
    others = sum(not other.is_same_as(waiting.starter) for other in waiting.given_by)
    return Approved(others + (not is_own and not has_approved), waiting.required, is_emergency)


def require_person(by: Actor) -> None:
    """Raises ForbiddenError for a credential of which nobody said whose it is: it could be the starter's second one."""
    if not by.identity:
        raise ForbiddenError(
            "approval_by_nobody",
            f"expected a person, got {by.name}, a token of which nobody said whose it is (issue_token --user NAME)",
        )
