"""What a browser may do with an answer of ours: load from this very server and nothing else, run no inline code.

The administration site is the one exception: its interface is a library's, which evaluates expressions in attributes.
It stays on this origin too.
"""

from collections.abc import Callable
from typing import Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import NoReverseMatch, reverse

HEADER: Final = "Content-Security-Policy"

STRICT: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
ADMINISTRATION: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class ContentSecurityMiddleware:
    """Adds the policy to every answer that has none."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response
        try:
            self._administration: str | None = reverse("admin:index")
        except NoReverseMatch:
            self._administration = None

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer, then say what may be done with the answer."""
        response = self._get_response(request)
        if HEADER not in response.headers:
            administers = self._administration is not None and request.path.startswith(self._administration)
            response.headers[HEADER] = ADMINISTRATION if administers else STRICT
        return response
