import pytest

from fleet.domain.errors import ConflictError
from fleet.domain.rollout_states import CONDUCTED, TERMINAL, TRANSITIONS, RolloutEvent, RolloutState, next_state

# The design's own words, written out again: state -> event -> state.
EXPECTED = {
    "draft": {"schedule": "scheduled", "submit": "awaiting_approval", "start": "running", "cancel": "cancelled"},
    "awaiting_approval": {"approve": "scheduled", "cancel": "cancelled"},
    "scheduled": {"start": "running", "cancel": "cancelled", "override_quiet": "scheduled"},
    "running": {
        "advance": "running",
        "hold": "held",
        "complete": "completed",
        "revert": "reverting",
        "cancel": "cancelled",
        "override_quiet": "running",
    },
    "held": {"resume": "running", "revert": "reverting", "cancel": "cancelled"},
    "reverting": {"revert": "reverting", "revert_step": "reverting", "finish_revert": "reverted"},
    "completed": {},
    "reverted": {},
    "cancelled": {},
}


@pytest.mark.parametrize("event", list(RolloutEvent))
@pytest.mark.parametrize("state", list(RolloutState))
def test_next_state__every_pair__is_in_the_table_or_refused(state: RolloutState, event: RolloutEvent) -> None:
    expected = EXPECTED[state.value].get(event.value)
    if expected is None:
        with pytest.raises(ConflictError, match=event.value) as refused:
            next_state(state, event)
        assert refused.value.code == "rollout_state"
    else:
        assert next_state(state, event).value == expected


def test_states__terminal_ones__are_those_without_a_way_out() -> None:
    assert {state for state in RolloutState if not any(start is state for start, _ in TRANSITIONS)} == TERMINAL
    assert not CONDUCTED & TERMINAL


def test_states__every_one__can_be_reached_from_draft() -> None:
    reached, frontier = {RolloutState.DRAFT}, {RolloutState.DRAFT}
    while frontier:
        frontier = {end for (start, _), end in TRANSITIONS.items() if start in frontier} - reached
        reached |= frontier
    assert reached == set(RolloutState)
