"""The states of a rollout and every way between them, on one screen. A pair that is not in the table changes nothing."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from fleet.domain.errors import ConflictError


class RolloutState(StrEnum):
    """Where a rollout stands."""

    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    HELD = "held"
    COMPLETED = "completed"
    REVERTING = "reverting"
    REVERTED = "reverted"
    CANCELLED = "cancelled"


class RolloutEvent(StrEnum):
    """What can happen to a rollout, by a person or by the conductor."""

    SCHEDULE = "schedule"
    SUBMIT = "submit"
    APPROVE = "approve"
    START = "start"
    ADVANCE = "advance"
    HOLD = "hold"
    RESUME = "resume"
    COMPLETE = "complete"
    REVERT = "revert"
    REVERT_STEP = "revert_step"
    FINISH_REVERT = "finish_revert"
    CANCEL = "cancel"
    OVERRIDE_QUIET = "override_quiet"  # a person lets it go on in its namespace's quiet hours


_S, _E = RolloutState, RolloutEvent

TRANSITIONS: Final[Mapping[tuple[RolloutState, RolloutEvent], RolloutState]] = MappingProxyType(
    {
        (_S.DRAFT, _E.SUBMIT): _S.AWAITING_APPROVAL,
        (_S.DRAFT, _E.SCHEDULE): _S.SCHEDULED,
        (_S.DRAFT, _E.START): _S.RUNNING,
        (_S.DRAFT, _E.CANCEL): _S.CANCELLED,
        (_S.AWAITING_APPROVAL, _E.APPROVE): _S.SCHEDULED,
        (_S.AWAITING_APPROVAL, _E.CANCEL): _S.CANCELLED,
        (_S.SCHEDULED, _E.START): _S.RUNNING,
        (_S.SCHEDULED, _E.CANCEL): _S.CANCELLED,
        (_S.SCHEDULED, _E.OVERRIDE_QUIET): _S.SCHEDULED,
        (_S.RUNNING, _E.ADVANCE): _S.RUNNING,
        (_S.RUNNING, _E.HOLD): _S.HELD,
        (_S.RUNNING, _E.COMPLETE): _S.COMPLETED,
        (_S.RUNNING, _E.REVERT): _S.REVERTING,
        (_S.RUNNING, _E.CANCEL): _S.CANCELLED,
        (_S.RUNNING, _E.OVERRIDE_QUIET): _S.RUNNING,
        (_S.HELD, _E.RESUME): _S.RUNNING,
        (_S.HELD, _E.REVERT): _S.REVERTING,
        (_S.HELD, _E.CANCEL): _S.CANCELLED,
        (_S.REVERTING, _E.REVERT): _S.REVERTING,  # a person does not wait for the steps that are left
        (_S.REVERTING, _E.REVERT_STEP): _S.REVERTING,
        (_S.REVERTING, _E.FINISH_REVERT): _S.REVERTED,
    }
)

# Its rule may give devices the version.
OFFERING: Final = frozenset({_S.RUNNING, _S.HELD})
TERMINAL: Final = frozenset({_S.COMPLETED, _S.REVERTED, _S.CANCELLED})
# The conductor looks at these on every tick.
CONDUCTED: Final = frozenset({_S.SCHEDULED, _S.RUNNING, _S.HELD, _S.REVERTING})


def next_state(state: RolloutState, event: RolloutEvent) -> RolloutState:
    """The state after `event`; raises `ConflictError` where the table has no entry."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        possible = ", ".join(sorted(item.value for start, item in TRANSITIONS if start is state)) or "nothing any more"
        raise ConflictError(
            "rollout_state", f"expected one of [{possible}] on a {state.value} rollout, got {event.value}"
        )
    return after
