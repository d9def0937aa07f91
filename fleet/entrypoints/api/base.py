"""What every view of the REST interface is made of."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from fleet.domain.scopes import Scope
from fleet.entrypoints.api.access import HasScope, PersonAuthentication, Principal, TokenAuthentication
from fleet.entrypoints.api.parsers import BoundedJsonParser
from fleet.entrypoints.api.problems import ProblemRenderer, handle_exception
from fleet.wiring import server

Body = TypeVar("Body", bound=Serializer[Any])


class ApiView(APIView):
    """One resource. `scopes` names what each method needs; a method that is not named there serves nobody.

    `names_model_later`: the model that is meant stands in the body or the query, and the view calls `access.require`.
    """

    scopes: ClassVar[Mapping[str, Scope]] = {}
    names_model_later: ClassVar[bool] = False
    authentication_classes = (TokenAuthentication, PersonAuthentication)
    permission_classes = (HasScope,)
    parser_classes = (BoundedJsonParser,)
    metadata_class = None

    def get_exception_handler(self) -> Any:
        """Problem documents, whatever the settings say."""
        return handle_exception

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Problem documents are rendered as such even where nothing was acceptable."""
        response = super().finalize_response(request, response, *args, **kwargs)
        if isinstance(response, Response) and response.exception:
            response.accepted_renderer = ProblemRenderer()
            response.accepted_media_type = ProblemRenderer.media_type
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @property
    def principal(self) -> Principal:
        """Who calls."""
        user: object = self.request.user
        if not isinstance(user, Principal):
            raise TypeError(f"expected an authenticated caller, got {type(user).__name__}")
        return user

    @property
    def now(self) -> datetime:
        """The time of this request."""
        return server.clock().now()

    def body(self, kind: type[Body]) -> dict[str, Any]:
        """The request's body after validation; raises ValidationError."""
        return validated(kind(data=self.request.data))

    def query(self, kind: type[Body]) -> dict[str, Any]:
        """The query's parameters after validation; raises ValidationError."""
        return validated(kind(data={name: self.request.query_params[name] for name in self.request.query_params}))


def validated(serializer: Serializer[Any]) -> dict[str, Any]:
    """The validated values; raises ValidationError for a body that is no object, too."""
    if not isinstance(serializer.initial_data, Mapping):
        raise ValidationError(f"expected an object, got {type(serializer.initial_data).__name__}")
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)
