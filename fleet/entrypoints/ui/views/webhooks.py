"""Who is told of what happens, and did it arrive?"""

from dataclasses import dataclass

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from fleet.apps.webhooks import selectors, services
from fleet.apps.webhooks.records import DeliveryRecord, WebhookRecord
from fleet.domain.errors import ModelfleetError
from fleet.entrypoints.ui.access import actor_of, operator
from fleet.entrypoints.ui.forms import WebhookForm
from fleet.entrypoints.ui.page import moment, render_page

SHOWN_DELIVERIES = 10


@dataclass(frozen=True)
class Told:
    """A webhook and what it was told last."""

    webhook: WebhookRecord
    deliveries: tuple[DeliveryRecord, ...]


@operator
@require_http_methods(["GET", "HEAD", "POST"])
def webhooks(request: HttpRequest) -> HttpResponse:
    """All of them with their newest deliveries, and a form for one more. Administrators only: it sends things out."""
    if not request.user.is_superuser:
        raise PermissionDenied("Only administrators may have addresses told. Ask one of them.")
    now = moment()
    form = WebhookForm(request.POST if request.method == "POST" else None)
    secret = ""
    if request.method == "POST" and form.is_valid():
        try:
            record, secret = services.create(**form.cleaned_data, actor=actor_of(request), now=now)
            messages.success(request, f"{record.url} is told from now on.", extra_tags="good")
            form = WebhookForm()
        except ModelfleetError as error:
            form.add_error("url" if error.code == "webhook_url" else "events", error.message)
    told = [Told(item, selectors.deliveries(item.id, limit=SHOWN_DELIVERIES)) for item in selectors.webhooks()]
    context = {"form": form, "told": told, "secret": secret}
    status = 422 if form.is_bound else 200
    return render_page(request, "webhooks.html", context, section="audit", now=now, status=status)


@operator
@require_http_methods(["POST"])
def act(request: HttpRequest, webhook_id: int, action: str) -> HttpResponse:
    """Send a test, or remove one."""
    if not request.user.is_superuser:
        raise PermissionDenied("Only administrators may have addresses told. Ask one of them.")
    try:
        if action == "test":
            services.send_test(webhook_id=webhook_id, actor=actor_of(request), now=moment())
            messages.success(request, "A test is on its way.", extra_tags="good")
        elif action == "remove":
            services.remove(webhook_id=webhook_id, actor=actor_of(request), now=moment())
            messages.success(request, "It is not told any more.", extra_tags="good")
    except ModelfleetError as error:
        messages.warning(request, error.message, extra_tags="bad")
    return HttpResponseRedirect(reverse("ui:webhooks"))
