"""The states of an experiment and every way between them, on one screen. A pair that is not in the table changes nothing."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from fleet.domain.errors import ConflictError


class ExperimentState(StrEnum):
    """Where an experiment stands."""

    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"  # it begins by itself once nothing is in its way and its devices are counted
    RUNNING = "running"
    DECIDED = "decided"  # the verdict is in; devices keep their arm until a person says what follows
    PROMOTED = "promoted"  # a rollout of the winner took over
    STOPPED = "stopped"  # every device is back on the baseline


class ExperimentEvent(StrEnum):
    """What can happen to an experiment, by a person or by the conductor."""

    SUBMIT = "submit"
    APPROVE = "approve"
    SCHEDULE = "schedule"
    START = "start"
    DECIDE = "decide"
    DROP = "drop"  # a harmful arm goes, the others stay
    EXTEND = "extend"
    PROMOTE = "promote"
    STOP = "stop"


_S, _E = ExperimentState, ExperimentEvent

TRANSITIONS: Final[Mapping[tuple[ExperimentState, ExperimentEvent], ExperimentState]] = MappingProxyType(
    {
        (_S.DRAFT, _E.START): _S.RUNNING,
        (_S.DRAFT, _E.SUBMIT): _S.AWAITING_APPROVAL,
        (_S.DRAFT, _E.SCHEDULE): _S.SCHEDULED,
        (_S.DRAFT, _E.STOP): _S.STOPPED,
        (_S.AWAITING_APPROVAL, _E.APPROVE): _S.SCHEDULED,
        (_S.AWAITING_APPROVAL, _E.STOP): _S.STOPPED,
        (_S.SCHEDULED, _E.START): _S.RUNNING,
        (_S.SCHEDULED, _E.STOP): _S.STOPPED,
        (_S.RUNNING, _E.DECIDE): _S.DECIDED,
        (_S.RUNNING, _E.DROP): _S.RUNNING,
        (_S.RUNNING, _E.EXTEND): _S.RUNNING,
        (_S.RUNNING, _E.STOP): _S.STOPPED,
        (_S.DECIDED, _E.EXTEND): _S.RUNNING,  # only without a winner: `experiment_decision.may_extend`
        (_S.DECIDED, _E.PROMOTE): _S.PROMOTED,  # only with a winner
        (_S.DECIDED, _E.STOP): _S.STOPPED,
    }
)

TERMINAL: Final = frozenset({_S.PROMOTED, _S.STOPPED})
# One experiment of a model at a time is in one of these: its devices are in its arms.
OCCUPYING: Final = frozenset({_S.RUNNING, _S.DECIDED})


def next_state(state: ExperimentState, event: ExperimentEvent) -> ExperimentState:
    """The state after `event`; raises `ConflictError` where the table has no entry."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        possible = ", ".join(sorted(item.value for start, item in TRANSITIONS if start is state)) or "nothing any more"
        raise ConflictError(
            "experiment_state", f"expected one of [{possible}] on a {state.value} experiment, got {event.value}"
        )
    return after
