"""The emergency stop: of a model, a namespace, or everything."""

from http import HTTPStatus

from rest_framework.request import Request
from rest_framework.response import Response

from fleet.apps.assignments import selectors, stops
from fleet.domain.errors import ForbiddenError
from fleet.domain.scopes import Scope
from fleet.entrypoints.api.access import namespace_of, require
from fleet.entrypoints.api.base import ApiView
from fleet.entrypoints.api.documentation import documented, paged
from fleet.entrypoints.api.pagination import whole
from fleet.entrypoints.api.serializers import stops as forms


class _Stopping(ApiView):
    """A view whose body says what is to be stopped."""

    names_model_later = True

    def _asked(self) -> dict[str, str]:
        """The body of a caller who may steer all rollouts that it reaches."""
        body = self.body(forms.StopBody)
        if body["scope"] != stops.EVERYTHING:
            require(self.principal, Scope.ROLLOUT_WRITE, body["scope"])
        elif not self.principal.may(Scope.ROLLOUT_WRITE, None):
            raise ForbiddenError("scope_missing", "expected scope rollout:write for every namespace, got less")
        return body


class Stops(_Stopping):
    """Stops in force."""

    scopes = {"GET": Scope.READ, "POST": Scope.ROLLOUT_WRITE}

    @paged(forms.StopSerializer, summary="List the stops in force")
    def get(self, _request: Request) -> Response:
        """Those that the caller may see, the newest first."""
        seen = [
            item
            for item in selectors.stops()
            if item.scope == stops.EVERYTHING or self.principal.may(Scope.READ, namespace_of(item.scope))
        ]
        return whole(self, seen, forms.StopSerializer)

    @documented(forms.StopSerializer, status=201, request=forms.StopBody, summary="Stop a model, a namespace or all")
    def post(self, _request: Request) -> Response:
        """Downloads under way stop, nothing new is offered, rollouts are held. What runs keeps running."""
        record = stops.stop(**self._asked(), actor=self.principal.actor, now=self.now)
        return Response(forms.StopSerializer(record).data, status=HTTPStatus.CREATED)


class StopLifting(_Stopping):
    """The end of a stop."""

    scopes = {"POST": Scope.ROLLOUT_WRITE}

    @documented(None, request=forms.StopBody, summary="Lift a stop", status=204)
    def post(self, _request: Request) -> Response:
        """Rollouts that it held stay held until somebody resumes them."""
        stops.lift(**self._asked(), actor=self.principal.actor, now=self.now)
        return Response(status=HTTPStatus.NO_CONTENT)
