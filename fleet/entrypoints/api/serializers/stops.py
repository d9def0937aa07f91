"""Emergency stops."""

from typing import Any

from rest_framework import serializers
from rest_framework.serializers import Serializer


class StopBody(Serializer[Any]):
    """What, and why."""

    scope = serializers.CharField(max_length=63, help_text="A model, a namespace, or `*` for everything.")
    reason = serializers.CharField(max_length=500)


class StopSerializer(Serializer[Any]):
    """A stop in force."""

    scope = serializers.CharField()
    reason = serializers.CharField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
