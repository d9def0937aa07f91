"""Which version is better, and for whom? What follows from that is a person's word, asked for and recorded."""

from collections.abc import Mapping
from typing import Final

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from fleet.apps.experiments import selectors, services
from fleet.apps.experiments.records import ExperimentRecord
from fleet.domain.errors import NotFoundError
from fleet.domain.experiment_decision import Verdict, may_extend
from fleet.domain.experiment_states import TRANSITIONS, ExperimentEvent, ExperimentState
from fleet.entrypoints.ui.access import operator, reader
from fleet.entrypoints.ui.comparison_cards import metric_cards
from fleet.entrypoints.ui.forms import ExtendForm, PromoteForm
from fleet.entrypoints.ui.interventions import Action, action_named, intervene
from fleet.entrypoints.ui.listing import listing
from fleet.entrypoints.ui.page import moment, render_page

DECISION_ROWS: Final = 50
STATES: Final = tuple(state.value for state in ExperimentState)


ACTIONS: Final[Mapping[str, Action]] = {
    action.name: action
    for action in (
        Action(
            *("start", ExperimentEvent.START, "Start the experiment", "Start", "run", False, services.start),
            consequence="Devices are randomised into the arms and install their version.",
            needs_identity=True,
        ),
        Action(
            *("approve", ExperimentEvent.APPROVE, "Approve the experiment", "Approve", "good", False, services.approve),
            consequence="With enough approvals it starts: at once, or as soon as nothing is in its way.",
            needs_identity=True,
        ),
        Action(
            *("promote", ExperimentEvent.PROMOTE, "Promote the winner", "Promote", "advance", False, services.promote),
            form=PromoteForm,
            consequence="A rollout of the winner starts, beginning with the devices that run it.",
            needs_identity=True,
        ),
        Action(
            *("extend", ExperimentEvent.EXTEND, "Give it more time", "Extend", "wait", False, services.extend),
            form=ExtendForm,
            consequence="Devices keep their arms, and the verdict is awaited longer.",
        ),
        Action(
            *("stop", ExperimentEvent.STOP, "Stop the experiment", "Stop", "bad", True, services.stop),
            consequence="Every device of an arm goes back to the baseline. It cannot be started again.",
        ),
    )
}


@reader
@require_safe
def experiments(request: HttpRequest) -> HttpResponse:
    """All experiments, newest first, by state and model."""
    context = listing(request, STATES, selectors.experiments)
    return render_page(request, "experiments/list.html", context, section="experiments", now=moment())


@reader
@require_safe
def experiment(request: HttpRequest, experiment_id: str) -> HttpResponse:
    """One experiment: are the arms comparable, then every comparison with its interval, then what was decided."""
    now = moment()
    found = _experiment(experiment_id)
    results = selectors.results(experiment_id, now=now)
    context = {
        "experiment": found,
        "results": results,
        "cards": metric_cards(results.comparisons, selectors.looks(experiment_id)),
        "decisions": selectors.decisions(experiment_id, limit=DECISION_ROWS),
        "actions": _possible(found),
    }
    live = "experiments/experiment_live.html"
    return render_page(request, "experiments/experiment.html", context, section="experiments", now=now, live=live)


@operator
@require_http_methods(["GET", "HEAD", "POST"])
def act(request: HttpRequest, experiment_id: str, action: str) -> HttpResponse:
    """Say what an intervention would touch and ask; do it when the answer comes back with a reason."""
    now = moment()
    found = _experiment(experiment_id)
    chosen = action_named(ACTIONS, action)
    here = reverse("ui:experiment", args=[experiment_id])
    names = {"experiment_id": experiment_id}
    form = intervene(request, chosen, found, possible=_possible(found), here=here, now=now, **names)
    if isinstance(form, HttpResponseRedirect):
        return form
    context = {
        "experiment": found,
        "action": chosen,
        "form": form,
        "results": selectors.results(experiment_id, now=now),
    }
    status = 422 if form.is_bound else 200
    return render_page(request, "experiments/act.html", context, section="experiments", now=now, status=status)


def _experiment(experiment_id: str) -> ExperimentRecord:
    try:
        return selectors.experiment(experiment_id)
    except NotFoundError as error:
        raise Http404(error.message) from error


def _possible(found: ExperimentRecord) -> list[Action]:
    """The actions that the table of states and the verdict allow now."""
    return [
        action
        for action in ACTIONS.values()
        if (found.state, action.event) in TRANSITIONS
        and (action.event is not ExperimentEvent.START or found.state is ExperimentState.DRAFT)
        and (action.event is not ExperimentEvent.EXTEND or may_extend(found.state, found.verdict))
        and (action.event is not ExperimentEvent.PROMOTE or found.verdict == Verdict.SHIP.value)
    ]
