import pytest

from fleet.domain.delta_states import SETTLED, TRANSITIONS, DeltaEvent, DeltaState, next_state
from fleet.domain.errors import ConflictError

# Written out again: state -> event -> state.
EXPECTED = {
    "queued": {"prove": "ready", "find_useless": "useless", "fail": "failed"},
    "ready": {"expire": "expired"},
    "useless": {},
    "failed": {"queue": "queued", "leave_out": "left_out"},
    "left_out": {"queue": "queued", "leave_out": "left_out"},
    "expired": {"queue": "queued", "leave_out": "left_out"},
}


@pytest.mark.parametrize("event", list(DeltaEvent))
@pytest.mark.parametrize("state", list(DeltaState))
def test_next_state__every_pair__is_in_the_table_or_refused(state: DeltaState, event: DeltaEvent) -> None:
    expected = EXPECTED[state.value].get(event.value)
    if expected is None:
        with pytest.raises(ConflictError, match=event.value) as refused:
            next_state(state, event)
        assert refused.value.code == "delta_state"
    else:
        assert next_state(state, event).value == expected


def test_states__settled_ones__are_never_asked_for_again() -> None:
    assert {state for state in DeltaState if (state, DeltaEvent.QUEUE) not in TRANSITIONS} == SETTLED
