"""Lists in pages. A cursor says where the next page begins, by the key of the last item, so insertions shift nothing."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from fleet.domain.errors import InvalidInputError
from fleet.entrypoints.api.base import ApiView

Item = TypeVar("Item")
Key = int | str
DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 500
MAX_CURSOR_CHARS: Final = 400
MAX_KEY: Final = 1 << 62


class PageQuery(Serializer[Any]):
    """What every list understands."""

    cursor = serializers.CharField(required=False, max_length=MAX_CURSOR_CHARS, help_text="From `next` of a page.")
    page_size = serializers.IntegerField(required=False, min_value=1, max_value=MAX_PAGE_SIZE)


def page(
    view: ApiView,
    fetch: Callable[[Any, int], Sequence[Item]],
    key: Callable[[Item], Key],
    render: type[Serializer[Any]],
    *,
    cursor: type[int] | type[str] = int,
) -> Response:
    """One page. `fetch(after, limit)` gives the items behind the key `after` (None for the first page)."""
    after, size = _asked(view, cursor)
    found = fetch(after, size + 1)
    shown = found[:size]
    return _answer(view, shown, key(shown[-1]) if len(found) > size else None, render)


def search(
    view: ApiView, look: Callable[[str, int], tuple[Sequence[Item], str]], render: type[Serializer[Any]]
) -> Response:
    """One page of what is looked for in parts. `look(after, limit)` gives what it found behind the key `after`, and the key
    behind which to look on, empty at the end.
    """
    after, size = _asked(view, str)
    found, following = look(str(after or ""), size)
    return _answer(view, found, following or None, render)


def _asked(view: ApiView, cursor: type[int] | type[str]) -> tuple[Key | None, int]:
    values = view.query(PageQuery)
    after = _decode(values["cursor"], cursor) if "cursor" in values else None
    return after, values.get("page_size", DEFAULT_PAGE_SIZE)


def _answer(view: ApiView, shown: Sequence[Item], last: Key | None, render: type[Serializer[Any]]) -> Response:
    """The items, and where the page behind the key `last` is."""
    following = None
    if last is not None:
        parameters = {name: view.request.query_params[name] for name in view.request.query_params}
        parameters["cursor"] = _encode(last)
        following = f"{view.request.build_absolute_uri(view.request.path)}?{urlencode(parameters)}"
    return Response({"next": following, "previous": None, "results": render(shown, many=True).data})


def whole(view: ApiView, items: Sequence[Item], render: type[Serializer[Any]]) -> Response:
    """A list that is short by its nature, in the form of a single page."""
    view.query(PageQuery)
    return Response({"next": None, "previous": None, "results": render(items, many=True).data})


def _encode(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def _decode(text: str, kind: type[int] | type[str]) -> Key:
    try:
        value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        value = None
    if type(value) is kind and _is_key(value):
        return value
    raise InvalidInputError("cursor_invalid", "expected a cursor from a page's `next`, got something else")


def _is_key(value: Key) -> bool:
    """Ids are plain ASCII and numbers below `MAX_KEY`; anything else never came from us, and no database takes all of it."""
    return value.isascii() and value.isprintable() if isinstance(value, str) else 0 <= value < MAX_KEY
