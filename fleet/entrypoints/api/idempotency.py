"""`Idempotency-Key`: a request that is sent again because its answer got lost is answered again, not done again.

The key belongs to its caller. The same key with another request is refused; a request that was refused is forgotten,
so that it can be mended and sent again under its key.
"""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Final

from rest_framework.response import Response

from fleet.apps.trust import services as trust
from fleet.domain.errors import InvalidInputError
from fleet.entrypoints.api.base import ApiView

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"
_FORM: Final = re.compile(r"[!-~]{1,200}")


def once(view: ApiView, act: Callable[[], Response]) -> Response:
    """Do `act` unless this caller did it before under the same key; without a key, just do it."""
    key = view.request.headers.get(HEADER)
    if key is None:
        return act()
    if _FORM.fullmatch(key) is None:
        raise InvalidInputError("idempotency_key", f"{HEADER}: expected 1 to 200 visible characters, got others")
    actor = view.principal.actor
    digest = _digest(view)
    stored = trust.begin_request(actor=actor, key=key, digest=digest, now=view.now)
    if stored is not None:
        return Response(stored.body, status=stored.status, headers={REPLAYED: "true"})
    try:
        response = act()
    except BaseException:
        trust.forget_request(actor=actor, key=key)
        raise
    trust.finish_request(actor=actor, key=key, status=response.status_code, body=response.data)
    return response


def _digest(view: ApiView) -> str:
    request = view.request
    body = json.dumps(request.data, sort_keys=True)
    return hashlib.sha256(f"{request.method} {request.path}\n{body}".encode()).hexdigest()
