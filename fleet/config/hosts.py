"""Refuses requests for a host that this server is not known by, before anything else looks at them.

Django refuses them too, but with a page and a traceback in the log, whoever asks: a scanner of the internet would write
our log. A program gets a problem document, a browser the same sentence as plain text, the log one line.
"""

import logging
from collections.abc import Callable

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase

from fleet.domain.problems import MEDIA_TYPE, Problem

logger = logging.getLogger(__name__)
MAX_SHOWN_CHARS = 80


class HostMiddleware:
    """Answers 400 to a request whose Host is not among ALLOWED_HOSTS. The first of all middleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Refuse, or pass the request on."""
        try:
            request.get_host()
        except DisallowedHost:
            return _refusal(request)
        return self._get_response(request)


def _refusal(request: HttpRequest) -> HttpResponse:
    host = (request.META.get("HTTP_HOST") or request.META.get("SERVER_NAME", ""))[:MAX_SHOWN_CHARS]
    logger.warning("refused a request for the host %r: it is not in MODELFLEET_ALLOWED_HOSTS", host)
    problem = Problem(400, "host_unknown", f"expected a host that this server is known by, got {host!r}")
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if "text/html" in request.headers.get("Accept", ""):
        return HttpResponse(
            f"{problem.detail}\n", status=400, content_type="text/plain; charset=utf-8", headers=headers
        )
    return JsonResponse(problem.encode(), status=problem.status, content_type=MEDIA_TYPE, headers=headers)
