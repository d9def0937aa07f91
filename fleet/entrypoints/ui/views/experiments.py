"""Which version is better, and for whom? What follows from that is a person's word, asked for and recorded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from fleet.apps.experiments import selectors, services
from fleet.apps.experiments.records import ExperimentRecord
from fleet.domain.errors import ModelfleetError, NotFoundError
from fleet.domain.experiment_decision import Verdict, may_extend
from fleet.domain.experiment_states import TRANSITIONS, ExperimentEvent, ExperimentState
from fleet.entrypoints.ui.access import actor_of, operator, reader
from fleet.entrypoints.ui.comparison_cards import metric_cards
from fleet.entrypoints.ui.forms import ActionForm, ExtendForm, PromoteForm
from fleet.entrypoints.ui.page import moment, render_page
from fleet.entrypoints.ui.queries import query, text

PAGE_ROWS: Final = 40
DECISION_ROWS: Final = 50
STATES: Final = tuple(state.value for state in ExperimentState)


@dataclass(frozen=True)
class Action:
    """What a person may do to an experiment, and how the page that asks says it."""

    name: str
    event: ExperimentEvent
    title: str
    button: str
    icon: str
    is_danger: bool
    form: type[ActionForm]
    service: Callable[..., ExperimentRecord]
    consequence: str


ACTIONS: Final[Mapping[str, Action]] = {
    action.name: action
    for action in (
        Action(
            *("start", ExperimentEvent.START, "Start the experiment", "Start", "run", False),
            *(ActionForm, services.start, "Devices are randomised into the arms and install their version."),
        ),
        Action(
            *("promote", ExperimentEvent.PROMOTE, "Promote the winner", "Promote", "advance", False),
            *(PromoteForm, services.promote, "A rollout of the winner starts, beginning with the devices that run it."),
        ),
        Action(
            *("extend", ExperimentEvent.EXTEND, "Give it more time", "Extend", "wait", False),
            *(ExtendForm, services.extend, "Devices keep their arms, and the verdict is awaited longer."),
        ),
        Action(
            *("stop", ExperimentEvent.STOP, "Stop the experiment", "Stop", "bad", True),
            *(
                ActionForm,
                services.stop,
                "Every device of an arm goes back to the baseline. It cannot be started again.",
            ),
        ),
    )
}


@reader
@require_safe
def experiments(request: HttpRequest) -> HttpResponse:
    """All experiments, newest first, by state and model."""
    chosen = {"state": text(request, "state", among=STATES), "model": text(request, "model")}
    after = text(request, "after")
    states = (chosen["state"],) if chosen["state"] else ()
    rows = selectors.experiments(model=chosen["model"], states=states, after=after, limit=PAGE_ROWS + 1)
    shown = rows[:PAGE_ROWS]
    context = {
        "experiments": shown,
        "chosen": chosen,
        "states": STATES,
        "is_filtered": any(chosen.values()),
        "first": query(chosen) if after else "",
        "next": query({**chosen, "after": shown[-1].id}) if len(rows) > PAGE_ROWS else "",
    }
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
    chosen = ACTIONS.get(action)
    if chosen is None:
        raise Http404(f"no action {action!r:.40}")
    here = reverse("ui:experiment", args=[experiment_id])
    if chosen not in _possible(found):
        messages.warning(request, f"{chosen.title}: not possible, it is {found.state}.", extra_tags="bad")
        return HttpResponseRedirect(here)
    form = chosen.form(request.POST if request.method == "POST" else None, initial={"revision": found.revision})
    if request.method == "POST" and form.is_valid():
        said: dict[str, Any] = dict(form.cleaned_data)
        said["if_revision"] = said.pop("revision")
        if chosen.event is ExperimentEvent.START:
            said.pop("reason")
        try:
            chosen.service(experiment_id=experiment_id, actor=actor_of(request), now=now, **said)
        except ModelfleetError as error:
            form.add_error(None, error.message)
        else:
            messages.success(request, f"{chosen.title}: done.", extra_tags="good")
            return HttpResponseRedirect(here)
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
        and (action.event is not ExperimentEvent.EXTEND or may_extend(found.state, found.verdict))
        and (action.event is not ExperimentEvent.PROMOTE or found.verdict == Verdict.SHIP.value)
    ]
