"""Webhooks: who is told of what happens, and what became of it."""

from collections.abc import Sequence
from dataclasses import asdict
from http import HTTPStatus

from rest_framework.request import Request
from rest_framework.response import Response

from fleet.apps.webhooks import selectors, services
from fleet.apps.webhooks.records import DeliveryRecord, WebhookRecord
from fleet.domain.errors import ForbiddenError
from fleet.domain.scopes import Scope
from fleet.entrypoints.api.base import ApiView
from fleet.entrypoints.api.documentation import documented, paged
from fleet.entrypoints.api.pagination import PageQuery, page, whole
from fleet.entrypoints.api.serializers import webhooks as forms


class _WebhookView(ApiView):
    """A view for callers who may have webhooks of the namespace that is meant."""

    names_model_later = True

    def _require(self, namespace: str) -> None:
        if not self.principal.may(Scope.WEBHOOK_WRITE, namespace or None):
            raise ForbiddenError("scope_missing", f"expected scope webhook:write for {namespace or 'everything'}")

    def _found(self, webhook_id: int) -> WebhookRecord:
        record = selectors.webhook(webhook_id)
        self._require(record.namespace)
        return record


class Webhooks(_WebhookView):
    """Webhooks."""

    scopes = {"GET": Scope.WEBHOOK_WRITE, "POST": Scope.WEBHOOK_WRITE}

    @paged(forms.WebhookSerializer, summary="List webhooks")
    def get(self, _request: Request) -> Response:
        """Those of the caller's reach; nobody is shown a secret."""
        seen = [
            item for item in selectors.webhooks() if self.principal.may(Scope.WEBHOOK_WRITE, item.namespace or None)
        ]
        return whole(self, seen, forms.WebhookSerializer)

    @documented(forms.NewWebhookSerializer, status=201, request=forms.WebhookBody, summary="Add a webhook")
    def post(self, _request: Request) -> Response:
        """It is told of everything from now on. The answer has its secret, which is shown this once."""
        body = self.body(forms.WebhookBody)
        self._require(body["namespace"])
        record, secret = services.create(**body, actor=self.principal.actor, now=self.now)
        shown = {**asdict(record), "secret": secret}
        return Response(forms.NewWebhookSerializer(shown).data, status=HTTPStatus.CREATED)


class Webhook(_WebhookView):
    """One webhook."""

    scopes = {"GET": Scope.WEBHOOK_WRITE, "DELETE": Scope.WEBHOOK_WRITE}

    @documented(forms.WebhookSerializer, summary="Show a webhook")
    def get(self, _request: Request, webhook_id: int) -> Response:
        """Without its secret."""
        return Response(forms.WebhookSerializer(self._found(webhook_id)).data)

    @documented(None, status=204, summary="Remove a webhook")
    def delete(self, _request: Request, webhook_id: int) -> Response:
        """With what it was told."""
        self._found(webhook_id)
        services.remove(webhook_id=webhook_id, actor=self.principal.actor, now=self.now)
        return Response(status=HTTPStatus.NO_CONTENT)


class WebhookTest(_WebhookView):
    """A delivery that tells of nothing."""

    scopes = {"POST": Scope.WEBHOOK_WRITE}

    @documented(forms.TestSerializer, status=202, summary="Send a test to a webhook")
    def post(self, _request: Request, webhook_id: int) -> Response:
        """Its fate is in the deliveries."""
        self._found(webhook_id)
        delivery = services.send_test(webhook_id=webhook_id, actor=self.principal.actor, now=self.now)
        return Response(forms.TestSerializer({"delivery": delivery}).data, status=HTTPStatus.ACCEPTED)


class Deliveries(_WebhookView):
    """What a webhook was told."""

    scopes = {"GET": Scope.WEBHOOK_WRITE}

    @paged(forms.DeliverySerializer, summary="List the deliveries of a webhook", query=PageQuery)
    def get(self, _request: Request, webhook_id: int) -> Response:
        """The newest first."""
        self._found(webhook_id)

        def fetch(after: int | None, limit: int) -> Sequence[DeliveryRecord]:
            return selectors.deliveries(webhook_id, limit=limit, after=after)

        return page(self, fetch, lambda item: item.id, forms.DeliverySerializer)


class Replay(_WebhookView):
    """A delivery once more."""

    scopes = {"POST": Scope.WEBHOOK_WRITE}

    @documented(forms.TestSerializer, status=202, summary="Deliver once more")
    def post(self, _request: Request, webhook_id: int, delivery_id: int) -> Response:
        """Under its own id, so that a receiver can tell."""
        self._found(webhook_id)
        services.replay(webhook_id=webhook_id, delivery_id=delivery_id, now=self.now)
        return Response(forms.TestSerializer({"delivery": delivery_id}).data, status=HTTPStatus.ACCEPTED)
