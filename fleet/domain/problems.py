"""How the server says no over HTTP: RFC 9457 problem details with a stable code. The class of an error decides the status."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from fleet.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    ModelfleetError,
    NotFoundError,
    QuotaError,
    TooLargeError,
    UnavailableError,
)

MEDIA_TYPE: Final = "application/problem+json"
MAX_DETAIL_CHARS: Final = 1_000
_STATUSES: Final[tuple[tuple[type[ModelfleetError], HTTPStatus], ...]] = (
    (InvalidInputError, HTTPStatus.BAD_REQUEST),
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (ConflictError, HTTPStatus.CONFLICT),
    (ForbiddenError, HTTPStatus.FORBIDDEN),
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (QuotaError, HTTPStatus.TOO_MANY_REQUESTS),
    (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
)


@dataclass(frozen=True)
class Problem:
    """One problem document. `code` is stable and may be matched on; `detail` is for people."""

    status: int
    code: str
    detail: str

    def encode(self) -> dict[str, object]:
        """The JSON form. `type` is left to its default, about:blank: the code names the problem."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail[:MAX_DETAIL_CHARS],
        }


def problem_of(error: ModelfleetError) -> Problem:
    """The problem document of a refusal."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), HTTPStatus.BAD_REQUEST)
    return Problem(status.value, error.code, error.message)
