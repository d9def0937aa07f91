"""The states of a delta and every way between them. A pair that is not in the table changes nothing."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from fleet.domain.errors import ConflictError


class DeltaState(StrEnum):
    """Where a delta stands. `useless`: built, but no smaller than the file. `left_out`: not worth its place in a budget."""

    QUEUED = "queued"
    READY = "ready"
    USELESS = "useless"
    FAILED = "failed"
    LEFT_OUT = "left_out"
    EXPIRED = "expired"


class DeltaEvent(StrEnum):
    """What can happen to a delta."""

    QUEUE = "queue"
    PROVE = "prove"
    FIND_USELESS = "find_useless"
    FAIL = "fail"
    LEAVE_OUT = "leave_out"
    EXPIRE = "expire"


_S, _E = DeltaState, DeltaEvent

TRANSITIONS: Final[Mapping[tuple[DeltaState, DeltaEvent], DeltaState]] = MappingProxyType(
    {
        (_S.QUEUED, _E.PROVE): _S.READY,
        (_S.QUEUED, _E.FIND_USELESS): _S.USELESS,
        (_S.QUEUED, _E.FAIL): _S.FAILED,
        (_S.READY, _E.EXPIRE): _S.EXPIRED,
        (_S.FAILED, _E.QUEUE): _S.QUEUED,
        (_S.FAILED, _E.LEAVE_OUT): _S.LEFT_OUT,
        (_S.LEFT_OUT, _E.QUEUE): _S.QUEUED,
        (_S.LEFT_OUT, _E.LEAVE_OUT): _S.LEFT_OUT,
        (_S.EXPIRED, _E.QUEUE): _S.QUEUED,
        (_S.EXPIRED, _E.LEAVE_OUT): _S.LEFT_OUT,
    }
)

# What is known of these stands: asking for them again builds nothing.
SETTLED: Final = frozenset({_S.QUEUED, _S.READY, _S.USELESS})


def next_state(state: DeltaState, event: DeltaEvent) -> DeltaState:
    """The state after `event`; raises `ConflictError` where the table has no entry."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        possible = ", ".join(sorted(item.value for start, item in TRANSITIONS if start is state)) or "nothing any more"
        raise ConflictError("delta_state", f"expected one of [{possible}] on a {state.value} delta, got {event.value}")
    return after
