"""Every refusal as a problem document: ours, DRF's, Django's, the database's, and the ones nobody thought of."""

import logging
from typing import Any, Final

from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import set_rollback

from device_client.wire.errors import WireError
from fleet.domain.errors import ModelfleetError
from fleet.domain.problems import MEDIA_TYPE, Problem, problem_of

logger = logging.getLogger(__name__)

_DRF_CODES: Final[tuple[tuple[type[exceptions.APIException], str], ...]] = (
    (exceptions.NotAuthenticated, "not_authenticated"),
    (exceptions.AuthenticationFailed, "not_authenticated"),
    (exceptions.PermissionDenied, "scope_missing"),
    (exceptions.MethodNotAllowed, "method_not_allowed"),
    (exceptions.NotAcceptable, "not_acceptable"),
    (exceptions.UnsupportedMediaType, "unsupported_media_type"),
    (exceptions.Throttled, "throttled"),
    (exceptions.ParseError, "body_malformed"),
    (exceptions.ValidationError, "body_invalid"),
    (exceptions.NotFound, "not_found"),
)


class ProblemRenderer(JSONRenderer):
    """JSON under the media type of problem documents."""

    media_type = MEDIA_TYPE


def handle_exception(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's exception handler: turns whatever was raised into a problem document."""
    set_rollback()
    headers: dict[str, str] = {}
    match error:
        case ModelfleetError():
            problem = problem_of(error)
        case WireError():
            problem = Problem(400, error.code, str(error))
        case Http404():
            problem = Problem(404, "not_found", "expected an existing resource, got none")
        case PermissionDenied():
            problem = Problem(403, "scope_missing", str(error) or "expected a caller with the right scope")
        case exceptions.APIException():
            problem = _drf_problem(error)
            headers = _drf_headers(error)
        case OperationalError():
            logger.warning("the database did not answer", exc_info=error)
            problem = Problem(503, "database_busy", "the database did not answer: try again")
        case _:
            logger.error("%s failed", context.get("view"), exc_info=error)
            problem = Problem(500, "internal", "the server failed to answer: its log says why")
    return problem_response(problem, headers)


def problem_response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """A problem document as DRF's response."""
    return Response(problem.encode(), status=problem.status, headers=headers, content_type=MEDIA_TYPE)


def _drf_problem(error: exceptions.APIException) -> Problem:
    code = next((code for kind, code in _DRF_CODES if isinstance(error, kind)), "refused")
    return Problem(error.status_code, code, _sentence(error.detail))


def _sentence(detail: Any, where: str = "") -> str:
    """DRF's nested messages on one line: `field.inner: what is wrong; other: ...`."""
    prefix = f"{where}: " if where else ""
    match detail:
        case dict():
            return "; ".join(
                _sentence(item, f"{where}.{name}" if where else str(name)) for name, item in detail.items()
            )
        case list():
            return "; ".join(_sentence(item, where) for item in detail)
        case _:
            return f"{prefix}{detail}"


def _drf_headers(error: exceptions.APIException) -> dict[str, str]:
    headers: dict[str, str] = {}
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if (wait := getattr(error, "wait", None)) is not None:
        headers["Retry-After"] = str(int(wait))
    return headers
