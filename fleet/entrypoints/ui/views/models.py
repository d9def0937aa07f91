"""What can be released, and can this file be trusted?"""

from typing import Final

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_safe

from fleet.apps.devices import counts
from fleet.apps.registry import selectors
from fleet.apps.registry.records import ModelRecord
from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.telemetry import selectors as telemetry
from fleet.apps.telemetry.savings import savings
from fleet.apps.trust import selectors as trust
from fleet.domain.errors import NotFoundError
from fleet.entrypoints.ui.access import reader
from fleet.entrypoints.ui.page import moment, render_page
from fleet.entrypoints.ui.queries import positive, query
from fleet.entrypoints.ui.release import Patch, parents, update_lines, version_lines

PAGE_ROWS: Final = 25
RECENT_ROLLOUTS: Final = 6
PARENTS: Final = 50
"""Versions among which the source of a delta is looked for."""


@reader
@require_safe
def models(request: HttpRequest) -> HttpResponse:
    """Every model, by name."""
    context = {"models": selectors.models()}
    return render_page(request, "models/list.html", context, section="models", now=moment())


@reader
@require_safe
def model(request: HttpRequest, name: str) -> HttpResponse:
    """One model: its versions and how they do in the field, aliases, deltas, rollouts."""
    record = _or_404_model(name)
    below = positive(request, "below")
    found = selectors.versions(name, below_number=below, limit=PAGE_ROWS + 1)
    shown = found[:PAGE_ROWS]
    aliases = selectors.aliases(name)
    now = moment()
    context = {
        "model": record,
        "lines": version_lines(
            shown, aliases, telemetry.version_overall(name, with_devices=False), counts.running(name, now).rows
        ),
        "older": query({"below": shown[-1].number}) if len(found) > PAGE_ROWS else "",
        "is_first": below is None,
        "aliases": aliases,
        "savings": selectors.delta_savings(name),
        "updates": update_lines(savings(name), shown),
        "rollouts": rollouts.rollouts(model=name, limit=RECENT_ROLLOUTS),
        "role": trust.model_role_states([name]).get(name),
    }
    return render_page(request, "models/model.html", context, section="models", now=now)


@reader
@require_safe
def version(request: HttpRequest, name: str, label: str) -> HttpResponse:
    """One version: what is in it, who signed it, what it costs to fetch, how it does on each class of device."""
    try:
        record = selectors.resolve(name, label)
    except NotFoundError as error:
        raise Http404(error.message) from error
    if record.label != label:  # an alias: the address that one keeps says the version
        return HttpResponseRedirect(reverse("ui:version", args=[name, record.label]))
    known = parents(selectors.versions(name, below_number=record.number, limit=PARENTS))
    now = moment()
    context = {
        "version": record,
        "aliases": [alias for alias in selectors.aliases(name) if alias.version == label],
        "patches": [Patch.of(delta, known, record) for delta in selectors.deltas(name, to_label=label)],
        "performance": [item for item in telemetry.version_summary(name) if item.version == label],
        "running": [item for item in counts.running(name, now).rows if item.version == label],
        "rollouts": rollouts.rollouts(model=name, version=label, limit=RECENT_ROLLOUTS),
        "role": trust.model_role_states([name]).get(name),
        "threshold": trust.delegation_threshold(name),
    }
    return render_page(request, "models/version.html", context, section="models", now=now)


def _or_404_model(name: str) -> ModelRecord:
    try:
        return selectors.model(name)
    except NotFoundError as error:
        raise Http404(error.message) from error
