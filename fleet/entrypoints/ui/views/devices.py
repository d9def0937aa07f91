"""Which devices are there, and why does one run what it runs?"""

from typing import Final

from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from fleet.apps.assignments import selectors as assignments
from fleet.apps.devices import counts, selectors
from fleet.apps.devices.records import DeviceChoice, FoundDevices
from fleet.domain.errors import NotFoundError
from fleet.domain.filters.errors import FilterError
from fleet.domain.filters.filter import Filter
from fleet.domain.filters.syntax import MAX_CHARS as MAX_FILTER_CHARS
from fleet.entrypoints.ui.access import reader
from fleet.entrypoints.ui.page import moment, render_page
from fleet.entrypoints.ui.queries import query, text
from fleet.entrypoints.ui.updates import updates

PAGE_ROWS: Final = 50
TIMELINE_ROWS: Final = 120
STATES: Final = ("active", "quarantined", "revoked")
CONNECTIONS: Final = {"online": True, "offline": False}
NO_VERSION: Final = "none"
"""Stands in an address for "attests no version at all"."""


@reader
@require_safe
def devices(request: HttpRequest) -> HttpResponse:
    """A filtered page of devices in order of id; none while the filter cannot be read."""
    chosen = {
        "search": text(request, "search"),
        "model": text(request, "model"),
        "version": text(request, "version"),
        "class": text(request, "class"),
        "state": text(request, "state", among=STATES),
        "connection": text(request, "connection", among=tuple(CONNECTIONS)),
    }
    written, unreadable = text(request, "filter", max_chars=MAX_FILTER_CHARS), ""
    chosen["filter"] = written
    try:
        wanted = Filter.parse(written)
    except FilterError as error:
        wanted, unreadable = None, error.message
    after = text(request, "after")
    choice = DeviceChoice(
        model=chosen["model"],
        version="" if chosen["version"] == NO_VERSION else chosen["version"] or None,
        hardware_class=chosen["class"],
        state=chosen["state"],
        online=CONNECTIONS.get(chosen["connection"]),
        search=chosen["search"],
        filter=wanted,
    )
    found = FoundDevices((), "") if unreadable else selectors.search(choice=choice, after=after, limit=PAGE_ROWS)
    context = {
        "devices": found.rows,
        "total": 0 if unreadable else counts.matching(choice),
        "unreadable": unreadable,
        "chosen": chosen,
        "is_filtered": any(chosen.values()),
        "classes": counts.hardware_classes(),
        "states": STATES,
        "connections": tuple(CONNECTIONS),
        "first": query(chosen) if after else "",
        "next": query({**chosen, "after": found.following}) if found.following else "",
    }
    return render_page(request, "devices/list.html", context, section="devices", now=moment())


@reader
@require_safe
def device(request: HttpRequest, device_id: str) -> HttpResponse:
    """One device: what it attests, what it was told and why, what it went through."""
    try:
        record = selectors.device(device_id)
    except NotFoundError as error:
        raise Http404(error.message) from error
    events = selectors.timeline(device_id, limit=TIMELINE_ROWS)
    told = {item.model: item for item in assignments.assignments(device_id=device_id)}
    context = {
        "device": record,
        "models": [(item, told.get(item.model)) for item in record.models],
        "updates": updates(events),
        "is_cut": len(events) == TIMELINE_ROWS,
    }
    return render_page(
        request, "devices/device.html", context, section="devices", now=moment(), live="devices/device_live.html"
    )
