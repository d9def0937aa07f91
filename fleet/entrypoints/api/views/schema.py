"""The OpenAPI document, and the answer to addresses that do not exist."""

from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from fleet.entrypoints.api.base import ApiView


class Schema(SpectacularAPIView):
    """OpenAPI 3.1. Public: it says what there is, not what is in it."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


class NoSuchAddress(ApiView):
    """A problem document instead of a page, whoever asks."""

    authentication_classes = ()  # type: ignore[assignment]
    permission_classes = (AllowAny,)  # type: ignore[assignment]

    @extend_schema(exclude=True)
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002 - the base class's signature
        """Whatever the method."""
        raise Http404

    @extend_schema(exclude=True)
    def get(self, _request: Request, **_kwargs: Any) -> Response:
        """Never reached."""
        raise Http404
