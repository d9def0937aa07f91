"""Roots, keys, tokens, claims, callers."""

from typing import Any

from rest_framework import serializers
from rest_framework.serializers import Serializer

from fleet.entrypoints.api.serializers.fields import PlainField

MAX_ROOT_CHARS = 262_144
MAX_TARGETS_CHARS = 2_097_152


class MeSerializer(Serializer[Any]):
    """Who calls."""

    name = serializers.CharField()
    kind = serializers.CharField(help_text="`token` or `user`.")
    actor = serializers.CharField(help_text="How the audit log names this caller.")
    scopes = serializers.ListField(child=serializers.CharField())


class KeySerializer(Serializer[Any]):
    """A public key as TUF has it."""

    keyid = serializers.CharField()
    keytype = serializers.CharField()
    scheme = serializers.CharField()
    keyval = PlainField(help_text="`public`: the key in the form that its scheme asks for.")


class OnlineKeysSerializer(Serializer[Any]):
    """The public halves of the keys that the server itself holds."""

    snapshot = KeySerializer()
    timestamp = KeySerializer()
    director = KeySerializer()


class RootsBody(Serializer[Any]):
    """The first roots of an installation, as exact texts."""

    image_root = serializers.CharField(max_length=MAX_ROOT_CHARS, trim_whitespace=False)
    image_targets = serializers.CharField(max_length=MAX_TARGETS_CHARS, trim_whitespace=False)
    director_root = serializers.CharField(max_length=MAX_ROOT_CHARS, trim_whitespace=False)


class RoleStateSerializer(Serializer[Any]):
    """Where a role stands."""

    repository = serializers.CharField(source="repository.value")
    role = serializers.CharField()
    version = serializers.IntegerField()
    published_version = serializers.IntegerField(allow_null=True)
    expires_at = serializers.DateTimeField()


class TrustStateSerializer(Serializer[Any]):
    """Whether the installation can release and assign."""

    roots_imported = serializers.BooleanField()
    roles = RoleStateSerializer(many=True)


class TokenBody(Serializer[Any]):
    """A new token."""

    name = serializers.CharField(max_length=100)
    scopes = serializers.ListField(child=serializers.CharField(max_length=64), min_length=1, max_length=32)
    expires_in_s = serializers.IntegerField(min_value=60, max_value=366 * 86_400, default=90 * 86_400)


class TokenSerializer(Serializer[Any]):
    """A token without its secret."""

    id = serializers.IntegerField()
    prefix = serializers.CharField()
    name = serializers.CharField()
    scopes = serializers.ListField(child=serializers.CharField())
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    last_used_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)


class NewTokenSerializer(TokenSerializer):
    """A token with its secret, which is shown this once."""

    token = serializers.CharField()


class ClaimBody(Serializer[Any]):
    """Leave for one device to join, once."""

    device_id = serializers.CharField(max_length=63)
    hardware_class = serializers.CharField(max_length=63)
    attributes = serializers.DictField(child=serializers.CharField(max_length=128, allow_blank=True), default=dict)
    expires_in_s = serializers.IntegerField(min_value=1, max_value=90 * 86_400, default=86_400)


class ClaimSerializer(Serializer[Any]):
    """A claim without its token."""

    id = serializers.IntegerField()
    device_id = serializers.CharField()
    hardware_class = serializers.CharField()
    attributes = PlainField(help_text="What the device will be given at enrolment: names to texts.")
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    used_at = serializers.DateTimeField(allow_null=True)


class NewClaimSerializer(ClaimSerializer):
    """A claim with its token, which is shown this once, and what the device has to be told."""

    token = serializers.CharField()
    device_url = serializers.CharField(help_text="The server's address for devices.")
    pin = serializers.CharField(help_text="sha256 of the trust anchors.")
