"""Is it safe to go on, and why did it stop?"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeVar

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from fleet.apps.assignments import selectors as assignments
from fleet.apps.devices import selectors as devices
from fleet.apps.registry import selectors as registry
from fleet.apps.rollouts import selectors, services
from fleet.apps.rollouts.records import RolloutRecord
from fleet.domain.errors import NotFoundError
from fleet.domain.rollout_states import TRANSITIONS, RolloutEvent, RolloutState
from fleet.entrypoints.ui.access import operator, reader
from fleet.entrypoints.ui.downloads import downloads
from fleet.entrypoints.ui.gate_cards import gate_cards, most_telling_first
from fleet.entrypoints.ui.interventions import Action, action_named, intervene
from fleet.entrypoints.ui.listing import listing
from fleet.entrypoints.ui.page import moment, render_page
from fleet.entrypoints.ui.phase_steps import consequences, phase_steps, reach, terms

DECISION_ROWS: Final = 50
REPORT_ROWS: Final = 500
"""Of the devices' reports about a rollout, the newest that its downloads are added up from."""

MOVING_BY_ITSELF: Final = frozenset(state for state, event in TRANSITIONS if event is RolloutEvent.OVERRIDE_QUIET)
STATES: Final = tuple(state.value for state in RolloutState)
SHOWN_EVIDENCE: Final = frozenset({"gates", "notes", "verdict"})
Record = TypeVar("Record")


ACTIONS: Final[Mapping[str, Action]] = {
    action.name: action
    for action in (
        Action(
            *("approve", RolloutEvent.APPROVE, "Approve the rollout", "Approve", "good", False, services.approve),
            needs_identity=True,
        ),
        Action(
            "override-quiet",
            RolloutEvent.OVERRIDE_QUIET,
            "Go on in quiet hours",
            "Go on now",
            "run",
            False,
            services.override_quiet,
        ),
        Action("resume", RolloutEvent.RESUME, "Resume the rollout", "Resume", "run", False, services.resume),
        Action(
            "advance", RolloutEvent.ADVANCE, "Go to the next phase now", "Advance", "advance", False, services.advance
        ),
        Action("hold", RolloutEvent.HOLD, "Halt the rollout", "Halt", "hold", False, services.hold),
        Action("revert", RolloutEvent.REVERT, "Revert the rollout", "Revert", "revert", True, services.revert),
        Action("cancel", RolloutEvent.CANCEL, "Cancel the rollout", "Cancel", "bad", True, services.cancel),
    )
}


@reader
@require_safe
def rollouts(request: HttpRequest) -> HttpResponse:
    """All rollouts, newest first, by state and model."""
    context = listing(request, STATES, selectors.rollouts)
    return render_page(request, "rollouts/list.html", context, section="rollouts", now=moment())


@reader
@require_safe
def cockpit(request: HttpRequest, rollout_id: str) -> HttpResponse:
    """One rollout: where it stands, every gate's interval against its margin, what was decided, what can be done."""
    now = moment()
    rollout = _rollout(rollout_id)
    rule = None if rollout.rule_id is None else assignments.rule(rollout.rule_id)
    judged = selectors.gates(rollout_id, now=now)
    reports = devices.rollout_events(rollout_id, limit=REPORT_ROWS)
    context = {
        "rollout": rollout,
        "terms": terms(rollout),
        "steps": phase_steps(rollout, selectors.phases(rollout_id)),
        "reach": rule and reach(treated_end=rule.treated_end, control_start=rule.control_start),
        "judged": judged,
        "cards": gate_cards(judged.gates),
        "offers": judged.offers,
        "downloads": downloads(event for _, event in reports),
        "downloads_are_cut": len(reports) == REPORT_ROWS,
        "decisions": selectors.decisions(rollout_id, limit=DECISION_ROWS),
        "actions": _possible(rollout, now),
        "quiet_until": _quiet_until(rollout, now) if rollout.state in MOVING_BY_ITSELF else None,
    }
    return render_page(
        request, "rollouts/cockpit.html", context, section="rollouts", now=now, live="rollouts/cockpit_live.html"
    )


@reader
@require_safe
def decision(request: HttpRequest, rollout_id: str, decision_id: int) -> HttpResponse:
    """One decision with its evidence as it was frozen then: which class, which metric, which devices."""
    rollout = _rollout(rollout_id)
    found = _or_404(lambda: selectors.decision(rollout_id, decision_id))
    context = {
        "rollout": rollout,
        "decision": found,
        "cards": most_telling_first(gate_cards(found.evidence.get("gates"))),
        "notes": found.evidence.get("notes"),
        "rest": {name: value for name, value in found.evidence.items() if name not in SHOWN_EVIDENCE},
    }
    return render_page(request, "rollouts/decision.html", context, section="rollouts", now=moment())


@operator
@require_http_methods(["GET", "HEAD", "POST"])
def act(request: HttpRequest, rollout_id: str, action: str) -> HttpResponse:
    """Say what an intervention would touch and ask; do it when the answer comes back with a reason."""
    now = moment()
    rollout = _rollout(rollout_id)
    possible = _possible(rollout, now)
    chosen = action_named({**ACTIONS, **{item.name: item for item in possible}}, action)
    here = reverse("ui:rollout", args=[rollout_id])
    form = intervene(request, chosen, rollout, possible=possible, here=here, now=now, rollout_id=rollout_id)
    if isinstance(form, HttpResponseRedirect):
        return form
    judged = selectors.gates(rollout_id, now=now)
    context = {
        "rollout": rollout,
        "action": chosen,
        "form": form,
        "judged": judged,
        "offers": judged.offers,
        "consequences": consequences(
            chosen.name,
            rollout,
            installed=sum(item.committed for item in judged.offers),
            under_way=sum(item.pending for item in judged.offers),
            planned=judged.counts.treated,
        ),
    }
    status = 422 if form.is_bound else 200
    return render_page(request, "rollouts/act.html", context, section="rollouts", now=now, status=status)


def _rollout(rollout_id: str) -> RolloutRecord:
    return _or_404(lambda: selectors.rollout(rollout_id))


def _or_404(read: Callable[[], Record]) -> Record:
    """What `read` finds; the page for what is not there otherwise."""
    try:
        return read()
    except NotFoundError as error:
        raise Http404(error.message) from error


def _quiet_until(rollout: RolloutRecord, now: datetime) -> datetime | None:
    """Until when its namespace's quiet hours keep it."""
    return None if rollout.ignores_quiet_hours else registry.quiet_hours(rollout.model).until(now)


def _possible(rollout: RolloutRecord, now: datetime) -> list[Action]:
    """The actions that the table of states allows now, called by what they do now: from the last phase there is only its
    completion to advance to. No quiet is broken outside of quiet hours, and no revert hastened that has no steps left.
    """
    return [
        _as_it_is_now(action, rollout)
        for action in ACTIONS.values()
        if (rollout.state, action.event) in TRANSITIONS
        and (action.event is not RolloutEvent.OVERRIDE_QUIET or _quiet_until(rollout, now) is not None)
        and (rollout.state is not RolloutState.REVERTING or rollout.steps_left > 0)
    ]


def _as_it_is_now(action: Action, rollout: RolloutRecord) -> Action:
    if action.event is RolloutEvent.ADVANCE and rollout.phase + 1 >= rollout.phases:
        return replace(action, title="Complete the rollout now", button="Complete")
    if action.event is RolloutEvent.REVERT and rollout.state is RolloutState.REVERTING:
        return replace(action, title="Revert the rest at once", button="Revert the rest")
    return action
