"""What the OpenAPI document says beside the serializers: problem documents, paging, security."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.serializers import Serializer

from fleet.domain.problems import MEDIA_TYPE
from fleet.entrypoints.api.pagination import MAX_PAGE_SIZE, PageQuery

ViewMethod = Callable[..., Any]


class ProblemSerializer(Serializer[Any]):
    """RFC 9457 problem details. Match on `code`; `detail` is for people and may change."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    code = serializers.CharField()
    detail = serializers.CharField()


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Bearer tokens."""

    target_class = "fleet.entrypoints.api.access.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:  # noqa: ARG002
        """As OpenAPI has it."""
        return {"type": "http", "scheme": "bearer", "description": "A token made by `manage.py issue_token`."}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """A person's session."""

    target_class = "fleet.entrypoints.api.access.PersonAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:  # noqa: ARG002
        """As OpenAPI has it."""
        return {"type": "apiKey", "in": "cookie", "name": "sessionid"}


PROBLEMS: Final[Mapping[int, str]] = {
    400: "What was sent does not hold together",
    401: "No valid credentials",
    403: "The caller lacks the scope",
    404: "There is no such thing, or not for this caller",
    406: "No acceptable representation",
    409: "What was asked contradicts what is stored",
    413: "More bytes than are allowed",
    415: "Not a media type that is read here",
    503: "Try again later",
}


def _problems() -> dict[tuple[int, str], Any]:
    return {
        (status, MEDIA_TYPE): OpenApiResponse(ProblemSerializer, description)
        for status, description in PROBLEMS.items()
    }


def documented(
    answer: Any,
    *,
    status: int = 200,
    request: Any = None,
    summary: str = "",
    query: Any = None,
    headers: Mapping[str, str] | None = None,
    also: Mapping[int, Any] | None = None,
    operation: str | None = None,
) -> Callable[[ViewMethod], ViewMethod]:
    """Describe a method: what it takes, what it gives, and every way it says no."""
    parameters: list[Any] = [] if query is None else [query]
    parameters += [
        OpenApiParameter(name, str, OpenApiParameter.HEADER, description=text) for name, text in (headers or {}).items()
    ]
    responses: dict[Any, Any] = {status: answer, **dict(also or {}), **_problems()}
    decorate: Callable[[ViewMethod], ViewMethod] = extend_schema(
        operation_id=operation,
        request=request,
        responses=responses,
        parameters=parameters,
        summary=summary or None,
    )
    return decorate


def paged(
    item: type[Serializer[Any]], *, summary: str = "", query: type[Serializer[Any]] = PageQuery
) -> Callable[[ViewMethod], ViewMethod]:
    """Describe a list in pages."""
    name = item.__name__.removesuffix("Serializer")
    wrapped = inline_serializer(
        f"{name}Page",
        {
            "next": serializers.CharField(allow_null=True, help_text="Address of the next page."),
            "previous": serializers.CharField(allow_null=True),
            "results": item(many=True, help_text=f"At most {MAX_PAGE_SIZE}."),
        },
    )
    return documented(wrapped, summary=summary, query=query, operation=f"{name.lower()}_list")
