"""A control plane as a pipeline sees it: REST over loopback HTTP and a really signed image repository, in memory.

It keeps the server's rules about signatures (`domain.role_checks`), and can be told to misbehave: to go silent, to cut
uploads, to stop publishing, or to serve older metadata than it was given.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import RLock, Thread
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from device_client.wire.bundles import Manifest
from fleet.domain import repository, role_checks
from fleet.domain.errors import ConflictError, InvalidInputError, ModelfleetError, NotFoundError

TOKEN = "mf_test_secret"
Answer = tuple[int, Any]


@dataclass
class ReleaseServerSimulator:
    """State of the simulated server; a test reads it and turns its faults on."""

    signers: dict[str, CryptoSigner] = field(
        default_factory=lambda: {
            role: CryptoSigner(Ed25519PrivateKey.generate()) for role in ("snapshot", "timestamp", "director")
        }
    )
    publishing: bool = True
    deaf_to_roots: bool = False
    """Whether imports fail although there are no roots."""
    cut_uploads: int = 0
    """So many of the next chunks are taken half and answered with 503."""
    pin: str = "ab" * 32
    url: str = ""
    metadata: dict[str, bytes] = field(default_factory=dict)
    roles: dict[str, list[bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, tuple[int, bytearray]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    namespaces: dict[str, str] = field(default_factory=dict)
    versions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    manifests: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    """The last manifest of each version."""
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    decisions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    chunk_bytes: list[int] = field(default_factory=list)
    lock: RLock = field(default_factory=RLock)

    @contextmanager
    def serving(self) -> Iterator["ReleaseServerSimulator"]:
        """Answer on a free loopback port."""
        simulator = self

        class Handler(_Handler):
            server_of_test = simulator

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    # ------------------------------------------------------------------------------- image repository

    def publish(self) -> None:
        """Sign snapshot and timestamp over the newest of every role."""
        if "root" not in self.roles:
            return
        now = datetime.now(UTC)
        newest = {role: self.newest(role).signed.version for role in self.roles if role != "root"}
        number = len([name for name in self.metadata if name.endswith(".snapshot.json")]) + 1
        for role, payloads in self.roles.items():
            for payload in payloads:
                self.metadata[f"{json.loads(payload)['signed']['version']}.{role}.json"] = payload
        snapshot = repository.snapshot(newest, version=number, now=now)
        self.metadata[f"{number}.snapshot.json"] = repository.signed(snapshot, [self.signers["snapshot"]])
        stamp = repository.timestamp(number, version=number, now=now)
        self.metadata["timestamp.json"] = repository.signed(stamp, [self.signers["timestamp"]])
        for versions in self.versions.values():
            for version in versions:
                version["state"] = "revoked" if version["state"] == "revoked" else "published"

    def newest(self, role: str) -> Metadata[Targets]:
        """The newest version of a role."""
        return role_checks.parse_targets(self.roles[role][-1])

    def _take(self, role: str, payload: bytes) -> None:
        self.roles.setdefault(role, []).append(payload)
        if self.publishing:
            self.publish()

    # ------------------------------------------------------------------------------- REST

    def answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Route one request."""
        if path.startswith("/image/metadata/"):
            found = self.metadata.get(path.removeprefix("/image/metadata/"))
            return (404, {}) if found is None else (200, found)
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {
                "code": "not_authenticated",
                "title": "Unauthorized",
                "detail": "expected a valid token, got none",
            }
        upload = re.fullmatch(r"/api/v1/uploads/([0-9a-f]{64})", path)
        if upload and method == "PATCH":
            return self._chunk(upload[1], int(headers["upload-offset"]), body)
        document = json.loads(body) if body else {}
        for pattern, handler in self._routes(method):
            match = re.fullmatch(pattern, path)
            if match:
                return handler(document, *match.groups())
        raise NotFoundError("not_found", f"no {method} {path}")

    def _routes(self, method: str) -> list[tuple[str, Callable[..., Answer]]]:
        model = r"/api/v1/models/([a-z0-9.-]+)"
        rollout = r"/api/v1/rollouts/(r-[0-9a-f]+)"
        routes: dict[str, list[tuple[str, Callable[..., Answer]]]] = {
            "GET": [
                ("/api/v1/me", lambda _: (200, {"name": "ci", "scopes": ["admin"]})),
                ("/api/v1/trust", lambda _: (200, {"roots_imported": "root" in self.roles, "roles": []})),
                ("/api/v1/trust/online-keys", self._online_keys),
                ("/api/v1/models", lambda _: self._page(list(self.models.values()))),
                (f"{model}/versions", lambda _, name: self._page(list(reversed(self.versions.get(name, []))))),
                (f"{model}/versions/([^/]+)", self._version),
                (f"{model}/aliases", lambda _, name: self._page(self._aliases(name))),
                ("/api/v1/rollouts", lambda _: self._page(list(reversed(self.rollouts)))),
                (rollout, lambda _, name: (200, self._rollout(name))),
                (f"{rollout}/decisions", lambda _, name: self._page(list(reversed(self.decisions.get(name, []))))),
                (f"{rollout}/gates", lambda *_: (200, {"gates": [], "notes": ["nothing to judge yet"]})),
            ],
            "POST": [
                ("/api/v1/trust/roots", self._import_roots),
                ("/api/v1/trust/image/targets", self._stage_targets),
                ("/api/v1/namespaces", self._create_namespace),
                ("/api/v1/models", self._create_model),
                (f"{model}/role", self._stage_role),
                ("/api/v1/uploads", self._begin_upload),
                (f"{model}/versions", self._finalise),
                (f"{model}/versions/([^/:]+):revoke", self._revoke),
                ("/api/v1/rollouts", self._start),
                (f"{rollout}:([a-z]+)", self._act),
                ("/api/v1/enrolment/claims", self._claim),
            ],
            "PUT": [(f"{model}/aliases/([a-z]+)", self._set_alias)],
        }
        return routes.get(method, [])

    def _page(self, items: list[Any]) -> Answer:
        return 200, {"next": None, "previous": None, "results": items}

    def _online_keys(self, _: Any) -> Answer:
        return 200, {role: {"keyid": s.public_key.keyid, **s.public_key.to_dict()} for role, s in self.signers.items()}

    def _import_roots(self, body: Any) -> Answer:
        if "root" in self.roles or self.deaf_to_roots:
            raise ConflictError("roots_exist", "expected an installation without roots, got one that has them")
        now = datetime.now(UTC)
        role_checks.first_image_root(
            body["image_root"].encode(),
            snapshot_key=self.signers["snapshot"].public_key,
            timestamp_key=self.signers["timestamp"].public_key,
            now=now,
        )
        role_checks.first_director_root(
            body["director_root"].encode(), director_key=self.signers["director"].public_key, now=now
        )
        self.roles["root"] = [body["image_root"].encode()]
        self._take("targets", body["image_targets"].encode())
        return 201, {}

    def _stage_targets(self, body: Any) -> Answer:
        root: Metadata[Root] = role_checks.parse_root(self.roles["root"][-1])
        payload = body["metadata"].encode()
        role_checks.image_targets(
            payload, root=root.signed, previous=self.newest("targets").signed, now=datetime.now(UTC)
        )
        self._take("targets", payload)
        return 201, {}

    def _verified_role(self, model: str, payload: bytes) -> Metadata[Targets]:
        return role_checks.model_role(
            payload,
            model=model,
            delegator=self.newest("targets").signed,
            previous=self.newest(model).signed if model in self.roles else None,
            lifetime=timedelta(days=366),
            now=datetime.now(UTC),
        )

    def _stage_role(self, body: Any, model: str) -> Answer:
        payload = body["metadata"].encode()
        self._verified_role(model, payload)
        self._take(model, payload)
        return 201, {}

    def _create_namespace(self, body: Any) -> Answer:
        if body["name"] in self.namespaces:
            raise ConflictError("namespace_exists", "expected a new namespace, got one that exists")
        self.namespaces[body["name"]] = body["profile"]
        return 201, body

    def _create_model(self, body: Any) -> Answer:
        if body["name"] in self.models:
            raise ConflictError("model_exists", "expected a new model, got one that exists")
        self.models[body["name"]] = {**body, "latest_version": None}
        return 201, body

    def _begin_upload(self, body: Any) -> Answer:
        sha256, length = body["sha256"], body["length"]
        if sha256 in self.blobs:
            return 200, {"sha256": sha256, "length": length, "received": length}
        _, held = self.uploads.setdefault(sha256, (length, bytearray()))
        return 200, {"sha256": sha256, "length": length, "received": len(held)}

    def _chunk(self, sha256: str, offset: int, chunk: bytes) -> Answer:
        length, held = self.uploads[sha256]
        if offset != len(held):
            raise ConflictError("upload_offset", f"expected offset {len(held)}, got {offset}")
        if self.cut_uploads:
            self.cut_uploads -= 1
            held += chunk[: len(chunk) // 2]
            return 503, {"code": "unavailable", "title": "Service Unavailable"}
        self.chunk_bytes.append(len(chunk))
        held += chunk
        if len(held) == length:
            if hashlib.sha256(held).hexdigest() != sha256:
                del self.uploads[sha256]
                raise InvalidInputError("upload_hash", "expected another sha256")
            self.blobs[sha256] = bytes(held)
            del self.uploads[sha256]
        return 200, {"sha256": sha256, "length": length, "received": len(held)}

    def _finalise(self, body: Any, model: str) -> Answer:
        role = self._verified_role(model, body["role"].encode())
        manifests = [Manifest.parse(text.encode()) for text in body["manifests"]]
        for manifest in manifests:
            self.manifests[model, manifest.version] = manifest
            path = f"models/{model}/{manifest.version}/{manifest.variant.slug}.json"
            if role.signed.targets[path].hashes["sha256"] != manifest.digest:
                raise InvalidInputError("manifest_mismatch", f"{path}: expected the signed manifest, got another")
            for file in manifest.files:
                if len(self.blobs.get(file.sha256, b"")) != file.length:
                    raise InvalidInputError("blob_missing", f"{file.name}: expected an uploaded blob, got none")
        version = {
            "model": model,
            "version": manifests[0].version,
            "state": "publishing",
            "notes": body["notes"],
            "git_sha": body["git_sha"],
            "created_at": datetime.now(UTC).isoformat(),
            "variants": [
                {"variant": item.variant.slug, "digest": item.digest, "content_bytes": item.content_bytes}
                for item in manifests
            ],
        }
        self.versions.setdefault(model, []).append(version)
        self.models[model]["latest_version"] = version["version"]
        self._take(model, body["role"].encode())
        return 201, version

    def _revoke(self, body: Any, model: str, label: str) -> Answer:
        _, version = self._version({}, model, label)
        role = self._verified_role(model, body["metadata"].encode())
        if any(path.split("/")[2] == label for path in role.signed.targets):
            raise InvalidInputError("role_not_revocation", f"expected a role without {label}, got one that lists it")
        self._take(model, body["metadata"].encode())
        version["state"] = "revoked"
        return 200, version

    def _version(self, _: Any, model: str, label: str) -> Answer:
        for version in self.versions.get(model, []):
            if version["version"] == label:
                return 200, version
        raise NotFoundError("version_unknown", f"expected a version of {model}, got {label}")

    def _aliases(self, model: str) -> list[dict[str, str]]:
        return [{"name": name, "version": version} for name, version in self.aliases.get(model, {}).items()]

    def _set_alias(self, body: Any, model: str, name: str) -> Answer:
        self.aliases.setdefault(model, {})[name] = body["version"]
        return 200, {"name": name, "version": body["version"]}

    def _start(self, body: Any) -> Answer:
        rollout = {
            **body,
            "id": f"r-{len(self.rollouts) + 1:012x}",
            "state": "running",
            "phase": 0,
            "phases": 3,
            "share": 0.25,
            "revision": 1,
            "created_at": datetime.now(UTC).isoformat(),
        }
        self.rollouts.append(rollout)
        return 201, rollout

    def _rollout(self, rollout_id: str) -> dict[str, Any]:
        return next(item for item in self.rollouts if item["id"] == rollout_id)

    def _act(self, body: Any, rollout_id: str, verb: str) -> Answer:
        states = {
            "pause": "held",
            "resume": "running",
            "advance": "running",
            "revert": "reverting",
            "cancel": "cancelled",
        }
        rollout = self._rollout(rollout_id)
        rollout["state"] = states[verb]
        rollout["because"] = body["reason"]
        return 200, rollout

    def _claim(self, body: Any) -> Answer:
        self.claims.append(body)
        token = base64.urlsafe_b64encode(hashlib.sha256(str(len(self.claims)).encode()).digest()).decode().rstrip("=")
        return 201, {
            **body,
            "token": token,
            "pin": self.pin,
            "device_url": self.url,
            "expires_at": "2026-01-02T00:00:00Z",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer, or Nagle's algorithm costs 40 ms each
    server_of_test: ReleaseServerSimulator

    def _serve(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        simulator = self.server_of_test
        with simulator.lock:
            simulator.requests.append(f"{self.command} {path}")
            try:
                status, answer = simulator.answer(self.command, path, body, headers)
            except ModelfleetError as error:
                statuses: dict[type, int] = {ConflictError: 409, NotFoundError: 404}
                status = statuses.get(type(error), 422)
                answer = {"code": error.code, "title": type(error).__name__, "detail": error.message, "status": status}
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = _serve  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: Any) -> None:
        """Tests say enough."""
