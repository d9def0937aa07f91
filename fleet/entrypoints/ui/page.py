"""Renders a page inside the common frame: navigation, set-up notice, the moment at which everything on it was true."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from fleet.apps.assignments import selectors as assignments
from fleet.apps.trust import selectors as trust
from fleet.apps.trust.records import RoleState
from fleet.entrypoints.ui.access import is_live_request, is_operator

EXPIRY_NOTICE: Final = timedelta(days=14)
"""How long before it expires a role that people sign is brought up on every page."""

ONLINE_ROLES: Final = frozenset({"snapshot", "timestamp"})
"""Signed again and again by the publisher itself; these matter to people only once they have expired."""


def moment() -> datetime:
    """The moment of this request."""
    return timezone.now()


def render_page(
    request: HttpRequest,
    template: str,
    context: Mapping[str, object],
    *,
    section: str,
    now: datetime,
    live: str = "",
    status: int = 200,
) -> HttpResponse:
    """Render `template`, or only `live`, the part that an open page asks for again and again.

    `section` is the entry of the navigation that the page belongs to.
    """
    inner = {**context, "now": now, "is_operator": is_operator(request), "live": live}
    if live and is_live_request(request):
        return render(request, live, inner)
    state = trust.trust_state()
    expired, expiring = _expiring(state.roles, now)
    frame = {
        "section": section,
        "set_up": state.roots_imported,
        "expired_roles": expired,
        "expiring_roles": expiring,
        "stops": assignments.stops(),
    }
    return render(request, template, {**inner, **frame}, status=status)


def _expiring(roles: tuple[RoleState, ...], now: datetime) -> tuple[list[RoleState], list[RoleState]]:
    expired = [role for role in roles if role.expires_at <= now]
    soon = [role for role in roles if now < role.expires_at <= now + EXPIRY_NOTICE and role.role not in ONLINE_ROLES]
    return expired, soon
