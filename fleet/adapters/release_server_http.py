"""The control plane over HTTP. It does not retry and does not judge statuses: that is for those who know the request."""

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx

from fleet.ports.release_server import Reply, ServerUnreachableError

TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)


class HttpReleaseServer:
    """One connection pool to one server; `token` may be empty for what needs none."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ServerUnreachableError(f"expected an address such as https://fleet.example.org, got {url!r}")
        self._url = url.rstrip("/")
        self._client = open_client(self._url, {"Authorization": f"Bearer {token}"} if token else {})

    @property
    def url(self) -> str:
        return self._url

    def send(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        try:
            response = self._client.request(
                method, f"{self._url}{path}", json=json, content=content, headers=dict(headers or {})
            )
        except httpx.TimeoutException:
            raise ServerUnreachableError(f"{self._url} did not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerUnreachableError(f"cannot reach {self._url}: {str(error) or type(error).__name__}") from None
        return Reply(response.status_code, response.content, {k.lower(): v for k, v in response.headers.items()})


def open_client(url: str, headers: Mapping[str, str] | None = None) -> httpx.Client:
    """A client that uses the environment's proxy, except for this machine itself, which no proxy can reach."""
    agent = {"User-Agent": "modelfleet"}
    return httpx.Client(headers={**agent, **(headers or {})}, timeout=TIMEOUT, trust_env=not _is_loopback(url))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
