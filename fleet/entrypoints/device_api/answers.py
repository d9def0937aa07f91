"""Answers that the views for devices share: problem documents, and a guard that turns errors into them."""

import logging
from collections.abc import Callable
from functools import wraps

from django.db import OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase

from fleet.domain.errors import ModelfleetError
from fleet.domain.problems import MEDIA_TYPE, Problem, problem_of

logger = logging.getLogger(__name__)
View = Callable[..., HttpResponseBase]


def problem_response(problem: Problem) -> HttpResponse:
    """The problem as a response that nobody caches."""
    return JsonResponse(
        problem.encode(), status=problem.status, content_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"}
    )


def device_view(*methods: str) -> Callable[[View], View]:
    """A view that answers these methods, and every error as a problem document. No sessions, so no CSRF."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: object, **named: object) -> HttpResponseBase:
            if request.method not in methods:
                problem = Problem(405, "method_not_allowed", f"expected {' or '.join(methods)}, got {request.method}")
                response = problem_response(problem)
                response["Allow"] = ", ".join(methods)
                return response
            try:
                return view(request, *args, **named)
            except ModelfleetError as error:
                return problem_response(problem_of(error))
            except OperationalError:
                logger.warning("the database did not answer a device", exc_info=True)
                return problem_response(Problem(503, "database_busy", "the database did not answer: try again"))
            except Exception:
                logger.exception("a request of a device failed: %s %s", request.method, request.path)
                return problem_response(Problem(500, "internal", "the server failed to answer: its log says why"))

        guarded.csrf_exempt = True  # type: ignore[attr-defined]  # how Django marks a view
        return guarded

    return decorate
