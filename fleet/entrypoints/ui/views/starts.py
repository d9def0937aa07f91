"""Who would get it? A dry run of a rollout, and its start once the answer was seen."""

from collections.abc import Mapping
from typing import Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from fleet.apps.devices import counts
from fleet.apps.registry import selectors as registry
from fleet.apps.rollouts import dry_runs, services
from fleet.domain.errors import ModelfleetError
from fleet.domain.findings import Level
from fleet.entrypoints.ui.access import actor_of, identity_of, operator
from fleet.entrypoints.ui.forms import StartForm
from fleet.entrypoints.ui.page import moment, render_page
from fleet.entrypoints.ui.queries import text

FIELD_OF_CODE: Final[Mapping[str, str]] = {
    "version_not_found": "version",
    "version_not_published": "version",
    "filter_invalid": "filter",
    "policy_invalid": "changes",
}


@operator
@require_http_methods(["GET", "HEAD", "POST"])
def start(request: HttpRequest) -> HttpResponse:
    """The form; sent once, the dry run beside it; sent again from there, the rollout."""
    now = moment()
    latest = registry.latest_labels()
    asked = {"model": text(request, "model"), "version": text(request, "version")}
    asked["version"] = asked["version"] or latest.get(asked["model"], "")
    form = StartForm(request.POST if request.method == "POST" else None, initial=asked, models=sorted(latest))
    context: dict[str, object] = {"form": form, "latest": latest, "classes": counts.hardware_classes()}
    if request.method == "POST" and form.is_valid():
        wanted = {"model": form.cleaned_data["model"], "version": form.cleaned_data["version"]}
        try:
            if form.cleaned_data["is_seen"]:
                begun = services.start(
                    **wanted, policy=form.policy(), actor=actor_of(request), identity=identity_of(request), now=now
                )
                messages.success(request, f"{begun.id} is {begun.state.value.replace('_', ' ')}.", extra_tags="good")
                return HttpResponseRedirect(reverse("ui:rollout", args=[begun.id]))
            plan = dry_runs.dry_run(**wanted, policy=form.policy(), now=now)
        except ModelfleetError as error:
            form.add_error(FIELD_OF_CODE.get(error.code), error.message)
        else:
            context |= {"plan": plan, "is_counting": plan is None}
            if plan is not None:
                context["steps"] = tuple(zip(plan.words, plan.phases, strict=False))
                context["is_refused"] = any(item.level is Level.ERROR for item in plan.findings)
            seen = {**request.POST.dict(), "is_seen": "" if plan is None else "on"}
            context["again"] = StartForm(seen, models=sorted(latest), auto_id=False)
    status = 422 if form.errors else 200
    return render_page(request, "rollouts/start.html", context, section="rollouts", now=now, status=status)
