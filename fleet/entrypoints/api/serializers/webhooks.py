"""Webhooks and what became of their deliveries."""

from typing import Any

from rest_framework import serializers
from rest_framework.serializers import Serializer

from fleet.domain.webhooks import MAX_EVENTS, MAX_URL_CHARS


class WebhookBody(Serializer[Any]):
    """A new webhook."""

    url = serializers.CharField(max_length=MAX_URL_CHARS)
    events = serializers.ListField(
        child=serializers.CharField(max_length=64), max_length=MAX_EVENTS, help_text="Such as `rollout.*` or `*`."
    )
    namespace = serializers.CharField(
        max_length=31, allow_blank=True, default="", help_text="Only what happens in it; empty: everything."
    )


class WebhookSerializer(Serializer[Any]):
    """A webhook, without its secret."""

    id = serializers.IntegerField()
    namespace = serializers.CharField()
    url = serializers.CharField()
    events = serializers.ListField(child=serializers.CharField())
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()


class NewWebhookSerializer(WebhookSerializer):
    """A new webhook with its secret, which is shown this once."""

    secret = serializers.CharField()


class TestSerializer(Serializer[Any]):
    """A delivery that was queued."""

    delivery = serializers.IntegerField()


class DeliverySerializer(Serializer[Any]):
    """One event on its way."""

    id = serializers.IntegerField()
    event = serializers.CharField()
    state = serializers.CharField(help_text="`pending`, `delivered` or `failed`.")
    attempts = serializers.IntegerField()
    status = serializers.IntegerField(allow_null=True, help_text="Of the last answer.")
    error = serializers.CharField()
    created_at = serializers.DateTimeField()
    tried_at = serializers.DateTimeField(allow_null=True)
