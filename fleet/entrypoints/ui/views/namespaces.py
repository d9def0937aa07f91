"""Which rules hold in a team's area?"""

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from fleet.apps.registry import selectors, services
from fleet.domain.errors import ModelfleetError, NotFoundError
from fleet.entrypoints.ui.access import actor_of, operator, reader
from fleet.entrypoints.ui.forms import NamespaceForm
from fleet.entrypoints.ui.page import moment, render_page


@reader
@require_safe
def namespaces(request: HttpRequest) -> HttpResponse:
    """All of them with their rules, and whether it is quiet now."""
    now = moment()
    shown = [(item, item.quiet.until(now)) for item in selectors.namespaces()]
    return render_page(request, "namespaces/list.html", {"namespaces": shown}, section="rollouts", now=now)


@operator
@require_http_methods(["GET", "HEAD", "POST"])
def namespace(request: HttpRequest, name: str) -> HttpResponse:
    """Change the rules of one. Administrators only: they say who decides, and when."""
    if not request.user.is_superuser:
        raise PermissionDenied("Only administrators may set the rules of a namespace. Ask one of them.")
    try:
        found = selectors.namespace(name)
    except NotFoundError as error:
        raise Http404(error.message) from error
    now = moment()
    stored = {"approvals": found.approvals, "quiet": "\n".join(found.quiet.words)}
    form = NamespaceForm(request.POST if request.method == "POST" else None, initial=stored)
    if request.method == "POST" and form.is_valid():
        try:
            services.set_namespace(
                name=name,
                approvals=form.cleaned_data["approvals"],
                quiet_hours=form.cleaned_data["quiet"],
                actor=actor_of(request),
                now=now,
            )
        except ModelfleetError as error:
            form.add_error("quiet", error.message)
        else:
            messages.success(request, f"The rules of {name} are set.", extra_tags="good")
            return HttpResponseRedirect(reverse("ui:namespaces"))
    context = {"namespace": found, "form": form}
    status = 422 if form.is_bound else 200
    return render_page(request, "namespaces/namespace.html", context, section="rollouts", now=now, status=status)
