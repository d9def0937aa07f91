"""The published image repository: signed metadata, readable by anybody, with the cache rules that TUF allows."""

from typing import Final

from django.http import HttpRequest, HttpResponse

from fleet.domain.errors import NotFoundError
from fleet.entrypoints.device_api.answers import device_view
from fleet.wiring import server

TIMESTAMP: Final = "timestamp.json"


@device_view("GET", "HEAD")
def metadata(_request: HttpRequest, name: str) -> HttpResponse:
    """One file. Numbered ones never change; the timestamp is asked for anew each time, and so is a root to come."""
    content = server.image_files().read(name)
    if content is None:
        raise NotFoundError("metadata_not_found", f"expected published metadata, got no {name[:100]!r}")
    caching = "no-cache" if name == TIMESTAMP else "public, max-age=31536000, immutable"
    return HttpResponse(content, content_type="application/json", headers={"Cache-Control": caching})
