"""Who may see and do what on the pages: everybody who is logged in reads; staff operate.

Live fragments asked for after the session ended are answered with an instruction to reload, so that no login form is
ever swapped into the middle of a page. When what stands behind a page is too busy to answer, the page says so.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Final

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render

from fleet.domain.approvals import person
from fleet.domain.errors import UnavailableError

logger = logging.getLogger(__name__)
RETRY_AFTER_S: Final = 5

View = Callable[..., HttpResponseBase]


def is_live_request(request: HttpRequest) -> bool:
    """Whether a page that is already open asks for its live part."""
    return request.headers.get("HX-Request") == "true"


def is_operator(request: HttpRequest) -> bool:
    """Whether this person may change things."""
    return request.user.is_active and request.user.is_staff


def actor_of(request: HttpRequest) -> str:
    """How this person is named in decisions and in the audit log."""
    return f"user:{request.user.get_username()}"


def identity_of(request: HttpRequest) -> str:
    """Who this person is, also behind their tokens."""
    return person(request.user.pk)


def reader(view: View) -> View:
    """Serve whoever is logged in; send everybody else to the login page."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: object, **named: object) -> HttpResponseBase:
        if "\0" in request.path:  # names nothing, and PostgreSQL would not even look
            raise Http404("no name contains NUL")
        try:
            if request.user.is_authenticated:
                return view(request, *args, **named)
        except (OperationalError, UnavailableError) as error:
            logger.warning("%s cannot be shown now: %s", request.path, error)
            response = render(request, "503.html", status=503)
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
            return response
        if is_live_request(request):
            return HttpResponse(status=401, headers={"HX-Refresh": "true"})
        return redirect_to_login(request.get_full_path())

    return guarded


def operator(view: View) -> View:
    """Serve staff; refuse readers."""

    @reader
    @wraps(view)
    def guarded(request: HttpRequest, *args: object, **named: object) -> HttpResponseBase:
        if not is_operator(request):
            raise PermissionDenied("Only operators may do this. Ask an administrator to make you staff.")
        return view(request, *args, **named)

    return guarded
