"""A control plane with a home of its own, and callers with tokens."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from fleet.adapters.blobs_local import LocalBlobStore
from fleet.apps.trust import services as trust
from fleet.config.environment import LocalBlobs
from fleet.wiring import installation, server
from tests.server import ceremony, pipeline
from tests.server.pipeline import Pipeline

COMPOSED = (
    server.blob_store,
    server.upload_spool,
    server.image_files,
    server.signer,
    server.online_keys,
    installation.device_authority,
)


@pytest.fixture(scope="session")
def prepared_secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Secrets are the same for every test: making them takes most of a second."""
    return Path(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def installed(settings: Settings, tmp_path: Path, prepared_secrets: Path) -> Iterator[Path]:
    """A home with secrets, and nothing composed from another one."""
    home = tmp_path / "server"
    home.mkdir()
    (home / "secrets").symlink_to(prepared_secrets)
    settings.MODELFLEET = dataclasses.replace(settings.MODELFLEET, home=home, blobs=LocalBlobs(home / "blobs"))
    for composed in COMPOSED:
        composed.cache_clear()
    installation.prepare_secrets()
    yield home
    for composed in COMPOSED:
        composed.cache_clear()


class Caller:
    """A client of the REST interface."""

    def __init__(self, token: str | None) -> None:
        self.client = Client()
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Any request; a body that is no bytes goes as JSON. The answer has `.status_code` and `.json()`."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        kind = headers.pop("content_type", "application/json")
        named = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.client.generic(method, f"/api/v1{path}", raw, content_type=kind, headers=named)

    def get(self, path: str) -> Any:
        """The answer's JSON, which must be a success."""
        return self._done(self.send("GET", path))

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """The answer's JSON, which must be a success."""
        return self._done(self.send("POST", path, {} if body is None else body, **headers))

    @staticmethod
    def _done(answer: Any) -> Any:
        assert answer.status_code < 300, answer.content
        return answer.json() if answer.content else None


@pytest.fixture
def caller(installed: Path, db: None) -> Callable[..., Caller]:
    """Makes callers by their scopes; without any, one without a token."""

    def make(*granted: str) -> Caller:
        if not granted:
            return Caller(None)
        _, token = trust.issue_token(
            name="-".join(granted)[:40], granted=granted, expires_in_s=3_600, actor="test", now=datetime.now(UTC)
        )
        return Caller(token)

    return make


@pytest.fixture
def admin(caller: Callable[..., Caller]) -> Caller:
    """May do everything."""
    return caller("admin")


@pytest.fixture
def released(installed: Path, db: None, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline whose model, version 1 and metadata are in this control plane, signed at the real time."""
    now = datetime.now(UTC).replace(microsecond=0)
    monkeypatch.setattr(ceremony, "NOW", now)
    keys = ceremony.Keys(
        root=ceremony.new_signer(),
        targets=ceremony.new_signer(),
        director_root=ceremony.new_signer(),
        snapshot=server.signer("snapshot"),
        timestamp=server.signer("timestamp"),
        director=server.signer("director"),
    )
    ceremony.import_first_roots(keys)
    store = server.blob_store()
    assert isinstance(store, LocalBlobStore)
    opened = Pipeline(keys, store=store, spool=server.upload_spool(), files=server.image_files())  # type: ignore[arg-type]
    opened.create_model(now=now)
    opened.publish(now=now)
    opened.push("1", now=now)
    assert opened.model == pipeline.MODEL
    return opened
