"""What is stopped, and how is it stopped or let go?"""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from fleet.apps.assignments import selectors, stops
from fleet.domain.errors import ModelfleetError
from fleet.entrypoints.ui.access import actor_of, operator
from fleet.entrypoints.ui.forms import StopForm
from fleet.entrypoints.ui.page import moment, render_page


@operator
@require_http_methods(["GET", "HEAD", "POST"])
def stop(request: HttpRequest) -> HttpResponse:
    """The stops in force, and a form that sets or lifts one. Whoever stops says why."""
    now = moment()
    form = StopForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        act = stops.lift if form.cleaned_data["lift"] else stops.stop
        try:
            act(
                scope=form.cleaned_data["scope"],
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                now=now,
            )
        except ModelfleetError as error:
            form.add_error("scope", error.message)
        else:
            done = "is not stopped any more" if form.cleaned_data["lift"] else "is stopped"
            messages.success(request, f"{form.cleaned_data['scope']} {done}.", extra_tags="good")
            return HttpResponseRedirect(reverse("ui:stops"))
    status = 422 if form.is_bound else 200
    context = {"form": form, "in_force": selectors.stops()}
    return render_page(request, "stops.html", context, section="rollouts", now=now, status=status)
