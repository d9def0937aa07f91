"""The control plane's REST interface as this command uses it: paths, bodies, and refusals turned into one line.

Nothing that comes from here is trusted for signing: what a pipeline signs on top of comes from `VerifiedRoles`.
"""

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from fleet.entrypoints.cli.errors import CommandError, ServerRefusedError
from fleet.ports.release_server import ReleaseServer, Reply, ServerUnreachableError

BASE: Final = "/api/v1"
PAGE_ITEMS: Final = 200
JsonObject = dict[str, Any]


class Api:
    """Calls of the REST interface. Every method raises CommandError in one line."""

    def __init__(self, server: ReleaseServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """The server's address."""
        return self._server.url

    def get(self, path: str, **query: object) -> JsonObject:
        """One resource; query values of None are left out."""
        return _object(self._checked("GET", f"{BASE}{path}{_query(query)}"))

    def items(self, path: str, *, at_most: int | None = None, **query: object) -> Iterator[JsonObject]:
        """Every item of a paginated list, or the first `at_most`."""
        target: str | None = f"{BASE}{path}{_query({'page_size': PAGE_ITEMS, **query})}"
        given = 0
        while target is not None:
            page = _object(self._checked("GET", target))
            for item in page.get("results", []):
                if given == at_most:
                    return
                given += 1
                yield item
            target = self._own_path(page.get("next"))

    def post(self, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> JsonObject:
        """Create or act; an answer without content is an empty object."""
        return _object(self._checked("POST", f"{BASE}{path}", json=body or {}, headers=headers))

    def put(self, path: str, body: object) -> JsonObject:
        """Set a resource."""
        return _object(self._checked("PUT", f"{BASE}{path}", json=body))

    def patch(self, path: str, body: object) -> JsonObject:
        """Change a part of a resource."""
        return _object(self._checked("PATCH", f"{BASE}{path}", json=body))

    def delete(self, path: str) -> None:
        """Remove a resource."""
        self._checked("DELETE", f"{BASE}{path}")

    def send_chunk(self, sha256: str, offset: int, chunk: bytes) -> Reply:
        """One part of an upload. The status is the caller's to judge; raises ServerUnreachableError."""
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/octet-stream"}
        return self._server.send("PATCH", f"{BASE}/uploads/{sha256}", content=chunk, headers=headers)

    def _own_path(self, link: object) -> str | None:
        """The next page's path. A link to another host is not followed: the token belongs to this server."""
        if not isinstance(link, str) or not link:
            return None
        _, separator, rest = link.partition(BASE)
        if not separator:
            raise CommandError("answer_malformed", f"{self.url}: expected a link within {BASE}, got {link!r:.120}")
        return f"{BASE}{rest}"

    def _checked(
        self, method: str, path: str, *, json: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        try:
            reply = self._server.send(method, path, json=json, headers=headers)
        except ServerUnreachableError as error:
            raise CommandError("server_unreachable", str(error)) from error
        require_success(reply, self.url)
        return reply


def model_path(model: str) -> str:
    """Where a model is."""
    return f"/models/{quote(model, safe='')}"


def version_path(model: str, version: str) -> str:
    """Where a version is."""
    return f"{model_path(model)}/versions/{quote(version, safe='')}"


def require_success(reply: Reply, url: str) -> None:
    """Raise ServerRefusedError, worded by the server's problem document, unless the reply is a success."""
    if reply.status >= HTTPStatus.BAD_REQUEST:
        raise problem_of(reply, url)


def problem_of(reply: Reply, url: str) -> ServerRefusedError:
    """What a refusal says, or that it says nothing."""
    try:
        problem = json.loads(reply.content)
        code, detail = str(problem["code"]), problem.get("detail") or problem.get("title") or problem["code"]
        line, *pointed = str(detail).split("\n")  # a filter's error is followed by the place that it means
        return ServerRefusedError(reply.status, code, "\n".join((f"{line} ({code})", *pointed)))
    except (ValueError, TypeError, KeyError, AttributeError):
        return ServerRefusedError(
            reply.status, f"http_{reply.status}", f"{url} answered {reply.status} without a reason: is it Modelfleet?"
        )


def _object(reply: Reply) -> JsonObject:
    if not reply.content:
        return {}
    try:
        document = json.loads(reply.content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CommandError("answer_malformed", f"expected a JSON object, got {reply.content[:60]!r}: is it Modelfleet?")
    return document


def _query(values: Mapping[str, object]) -> str:
    pairs = [f"{name}={quote(str(value), safe='')}" for name, value in values.items() if value is not None]
    return f"?{'&'.join(pairs)}" if pairs else ""
