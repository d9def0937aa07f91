"""The answer to a question about a fleet that is still being counted."""

from http import HTTPStatus
from typing import Any, Final

from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.serializers import Serializer

COUNTING: Final = "counting"
RETRY_AFTER_S: Final = 1


class CountingSerializer(Serializer[Any]):
    """The fleet's devices are being counted: send the same request again."""

    state = serializers.ChoiceField([COUNTING])
    retry_after_s = serializers.IntegerField()


def counting() -> Response:
    """202, and when to ask again."""
    return Response(
        {"state": COUNTING, "retry_after_s": RETRY_AFTER_S},
        status=HTTPStatus.ACCEPTED,
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
