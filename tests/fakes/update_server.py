"""A server as a device sees it: signed repositories and blobs over loopback HTTP, bundles over a broker in memory.

Everything it signs is really signed and everything it serves is really served; what it keeps of a device is what the
device has reported. It can be told to misbehave on the network, and tests reach into its keys to play the attacker.
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import bsdiff4
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from device_client.wire import topics
from device_client.wire.bundles import BundleFile, FileRole, Manifest
from device_client.wire.delta import Codec
from device_client.wire.director import Answer, Arm, Assigned, Binding, Decision, DeltaOffer, DevicePolicy
from device_client.wire.messages import Ack, BundleMessage, Check, LabelBatch, StateReport, TelemetryWindow
from device_client.wire.names import ManifestPath, VariantName, delta_target, device_target
from device_client.wire.shadow import ShadowBudget
from device_client.wire.tensor1.format import MIN_BLOCK_BYTES
from device_client.wire.topics import Down, Up
from fleet.adapters.delta_tensor import Coding
from fleet.domain import repository
from fleet.domain.repository import NamedTarget, Profile
from tests.delta.patches import make
from tests.fakes.certificate_server import CertificateServerSimulator

PLAN_KEY = "abcdef0123456789"
# 200 bytes a second: faster than what counts as stalled, and more than a minute for any file of these tests.
DRIP_BYTES, DRIP_S = 10, 0.05
QUICK = DevicePolicy(window_s=1.0, probation_s=1.0, probation_inferences=0, download_deadline_s=600.0)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def key() -> CryptoSigner:
    return CryptoSigner(Ed25519PrivateKey.generate())


@dataclass
class Faults:
    """How the network and the store misbehave. Applied to blobs only."""

    ignore_ranges: bool = False
    cut_after_bytes: int | None = None
    """Close the connection after so many bytes of a body, once per entry of `cuts_left`."""
    cuts_left: int = 0
    status: int | None = None
    drips_after: int | None = None
    """So many bytes of each body come at once and the rest in drips, slower than any test, until this is None again."""
    altered: dict[str, bytes] = field(default_factory=dict)
    endless: bool = False
    short: dict[str, int] = field(default_factory=dict)
    """Of these blobs, only so many bytes are there; no length is announced, and the answer ends in good order."""


@dataclass
class Told:
    """What the director tells one device about one model."""

    manifest: Manifest | None
    rollout: str = "r-000000000001"
    revision: int = 1
    decision: Decision = Decision.NOW
    because: str = "a rule matches"
    policy: DevicePolicy = QUICK
    parameters: Mapping[str, str] = field(default_factory=dict)
    until: int | None = None


class UpdateServerSimulator:
    """One fleet's server. Attributes are public: tests are its operators, and its attackers."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(tz=UTC)) -> None:
        self.now = now
        self.keys = {
            name: key()
            for name in (
                "image-root",
                "image-targets",
                "director-root",
                "pipeline",
                "snapshot",
                "timestamp",
                "director",
            )
        }
        self.certificates = CertificateServerSimulator(now)
        self.faults = Faults()
        self.metadata: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.told: dict[tuple[str, str], Told] = {}
        self.shadows: dict[tuple[str, str], tuple[Manifest, ShadowBudget]] = {}
        self.patches: dict[tuple[str, str, Codec], bytes] = {}
        self.deltas = True
        self.director_version = 1_000
        self.poll_interval_s = 3_600
        self.checks: dict[str, list[Check]] = {}
        self.states: dict[str, dict[tuple[str, int], StateReport]] = {}
        self.windows: dict[str, dict[tuple[str, int], TelemetryWindow]] = {}
        self.labels: dict[str, dict[tuple[str, int], LabelBatch]] = {}
        self.acknowledges = True
        self.answers = True
        self.roles: dict[str, Targets] = {}
        self._image_version = 0
        self.url = ""
        self._set_up()

    # ------------------------------------------------------------ the repositories

    def _set_up(self) -> None:
        public = {name: signer.public_key for name, signer in self.keys.items()}
        now = self.now()
        self.image_root = repository.signed(
            repository.image_root(
                root_keys=[public["image-root"]],
                targets_keys=[public["image-targets"]],
                snapshot_key=public["snapshot"],
                timestamp_key=public["timestamp"],
                threshold=1,
                now=now,
            ),
            [self.keys["image-root"]],
        )
        self.director_root = repository.signed(
            repository.director_root(
                root_keys=[public["director-root"]], online_key=public["director"], threshold=1, now=now
            ),
            [self.keys["director-root"]],
        )
        self.metadata["1.root.json"] = self.image_root
        self.targets = repository.image_targets(now=now).signed
        self.metadata["1.targets.json"] = repository.signed(Metadata(self.targets), [self.keys["image-targets"]])
        self.publish_metadata()

    def create_model(self, model: str) -> None:
        """Delegate a model to the pipeline's key."""
        delegated = repository.with_model(
            self.targets, model=model, keys=[self.keys["pipeline"].public_key], threshold=1, now=self.now()
        )
        self.targets = delegated.signed
        self.metadata[f"{self.targets.version}.targets.json"] = repository.signed(
            delegated, [self.keys["image-targets"]]
        )
        self.set_role(model, repository.model_role(profile=Profile.DEV, now=self.now()))

    def set_role(self, model: str, role: Metadata[Targets], signer: str = "pipeline") -> None:
        """Publish a model's role as signed by `signer`."""
        self.roles[model] = role.signed
        self.metadata[f"{role.signed.version}.{model}.json"] = repository.signed(role, [self.keys[signer]])
        self.publish_metadata()

    def publish_metadata(self, now: datetime | None = None) -> None:
        """Sign the next snapshot and timestamp."""
        at = now or self.now()
        self._image_version += 1
        versions = {"targets": self.targets.version, **{model: role.version for model, role in self.roles.items()}}
        self.metadata[f"{self._image_version}.snapshot.json"] = repository.signed(
            repository.snapshot(versions, version=self._image_version, now=at), [self.keys["snapshot"]]
        )
        self.metadata["timestamp.json"] = repository.signed(
            repository.timestamp(self._image_version, version=self._image_version, now=at), [self.keys["timestamp"]]
        )

    def push(
        self,
        model: str,
        version: str,
        weights: bytes,
        *,
        extra: Mapping[str, tuple[FileRole, bytes]] | None = None,
        signer: str = "pipeline",
        **overrides: Any,
    ) -> Manifest:
        """Publish a version with one variant and return its manifest."""
        if model not in self.roles:
            self.create_model(model)
        files = {"model.bin": (FileRole.WEIGHTS, weights), **(extra or {})}
        manifest = Manifest(
            model=model,
            version=version,
            variant=overrides.pop("variant", VariantName("fake", "fp32", "any")),
            format="fake",
            files=tuple(
                BundleFile(name, role, sha256(content), len(content)) for name, (role, content) in files.items()
            ),
            **overrides,
        )
        for _, content in files.values():
            self.blobs[sha256(content)] = content
        self.blobs[manifest.digest] = manifest.encode()
        path = str(ManifestPath(model, version, manifest.variant))
        target = NamedTarget(path, len(manifest.encode()), manifest.digest)
        self.set_role(
            model,
            repository.with_targets(self.roles[model], [target], profile=Profile.DEV, now=self.now()),
            signer,
        )
        return manifest

    def revoke(self, model: str, version: str) -> None:
        """Take a version out of its model's role."""
        role = repository.without_version(self.roles[model], version, profile=Profile.DEV, now=self.now())
        self.set_role(model, role)

    def build_delta(self, old: Manifest, new: Manifest, codec: Codec = Codec.BSDIFF4) -> bytes:
        """A patch between the weights of two versions, offered from now on."""
        before, after = self.blobs[old.weights.sha256], self.blobs[new.weights.sha256]
        if codec is Codec.BSDIFF4:
            patch = bytes(bsdiff4.diff(before, after))
        else:
            coding = Coding.PCODEC if codec is Codec.TENSOR1 else Coding.PORTABLE
            patch, _ = make(before, after, coding=coding, block_bytes=MIN_BLOCK_BYTES)
        self.offer_patch(old.weights.sha256, new.weights.sha256, patch, codec)
        return patch

    def offer_patch(self, old_sha256: str, new_sha256: str, patch: bytes, codec: Codec = Codec.BSDIFF4) -> None:
        self.patches[old_sha256, new_sha256, codec] = patch
        self.blobs[sha256(patch)] = patch

    # ------------------------------------------------------------ the director

    def assign(self, device_id: str, manifest: Manifest, **how: Any) -> Told:
        """From the next check on, tell a device to run this."""
        before = self.told.get((device_id, manifest.model))
        how.setdefault("revision", 1 if before is None else before.revision + 1)
        told = Told(manifest, **how)
        self.told[device_id, manifest.model] = told
        return told

    def withdraw(self, device_id: str, model: str, *, because: str = "no rule matches", **how: Any) -> None:
        """From the next check on, tell a device to install nothing."""
        self.told[device_id, model] = Told(None, decision=how.pop("decision", Decision.NOTHING), because=because, **how)

    def targets_for(self, device_id: str, check: Check) -> tuple[list[NamedTarget], list[str]]:
        """The director's targets for a device, and the blobs that it will need."""
        answers, targets, blobs = {}, [], []
        for running in check.models:
            told = self.told.get((device_id, running.model))
            if told is None:
                continue
            answers[running.model] = Answer(told.decision, told.because, PLAN_KEY, told.until)
            if told.manifest is not None:
                made, needed = self._assignment(told.manifest, told, running.weights_sha256)
                targets += made
                blobs += needed
            beside = self.shadows.get((device_id, running.model))
            if beside is not None:
                shadow = replace(told, manifest=beside[0], rollout="e-000000000001")
                made, needed = self._assignment(beside[0], shadow, running.weights_sha256, beside[1])
                targets += made
                blobs += needed
        binding = Binding(check.nonce, int(self.now().timestamp()), self.poll_interval_s, answers)
        return [NamedTarget(device_target(device_id), 0, sha256(b""), binding.encode()), *targets], blobs

    def _assignment(
        self, manifest: Manifest, told: Told, held: str, shadow: ShadowBudget | None = None
    ) -> tuple[list[NamedTarget], list[str]]:
        path = str(ManifestPath(manifest.model, manifest.version, manifest.variant))
        assigned = Assigned(
            model=manifest.model,
            version=manifest.version,
            revision=told.revision,
            rollout=told.rollout,
            arm=Arm.TREATED,
            phase=0,
            reason=told.because,
            policy=told.policy,
            parameters=told.parameters,
            shadow=shadow,
        )
        targets = [NamedTarget(path, len(manifest.encode()), manifest.digest, assigned.encode())]
        blobs = [manifest.digest, *(file.sha256 for file in manifest.files)]
        for (old_sha256, new_sha256, codec), patch in self.patches.items() if self.deltas else ():
            if (old_sha256, new_sha256) == (held, manifest.weights.sha256):
                offer = DeltaOffer(old_sha256, new_sha256, codec.value)
                name = delta_target(old_sha256, new_sha256, codec.value)
                targets.append(NamedTarget(name, len(patch), sha256(patch), offer.encode()))
                blobs.append(sha256(patch))
        return targets, blobs

    def bundle(
        self,
        targets: list[NamedTarget],
        *,
        version: int | None = None,
        now: datetime | None = None,
        signer: str = "director",
    ) -> dict[str, str]:
        """Director metadata over `targets`, correctly signed unless told otherwise."""
        at = now or self.now()
        if version is None:
            self.director_version += 1
            version = self.director_version
        signers = [self.keys[signer]]
        files = {
            f"{version}.targets.json": repository.signed(
                repository.director_targets(targets, version=version, now=at), signers
            ),
            f"{version}.snapshot.json": repository.signed(
                repository.snapshot({"targets": version}, version=version, now=at), signers
            ),
            "timestamp.json": repository.signed(repository.timestamp(version, version=version, now=at), signers),
        }
        return {name: content.decode() for name, content in files.items()}

    def answer(self, device_id: str, check: Check) -> BundleMessage:
        """The honest answer to a check."""
        targets, blobs = self.targets_for(device_id, check)
        return BundleMessage(check.nonce, self.bundle(targets), self.tickets(blobs))

    def tickets(self, blobs: list[str]) -> dict[str, str]:
        return {blob: f"/device/v1/blobs/{blob}?ticket=good" for blob in blobs}

    # ------------------------------------------------------------ what devices say

    def take(self, device_id: str, kind: Up, payload: bytes) -> list[tuple[Down, bytes]]:
        """Deal with a message as the real processes do: once and only once; returns what goes down."""
        if kind is Up.CHECK:
            check = Check.parse(payload)
            self.checks.setdefault(device_id, []).append(check)
            return [(Down.BUNDLE, self.answer(device_id, check).encode())] if self.answers else []
        parsers: dict[Up, tuple[Callable[[bytes], Any], dict[str, Any]]] = {
            Up.STATE: (StateReport.parse, self.states),
            Up.TELEMETRY: (TelemetryWindow.parse, self.windows),
            Up.LABEL: (LabelBatch.parse, self.labels),
        }
        if kind not in parsers:
            return []
        parse, kept = parsers[kind]
        message = parse(payload)
        kept.setdefault(device_id, {}).setdefault((message.key.boot, message.key.seq), message)
        return [(Down.ACK, Ack(message.key.boot, (message.key.seq,)).encode())] if self.acknowledges else []

    def reports(self, device_id: str) -> list[StateReport]:
        """What a device has reported, in its order."""
        return [report for _, report in sorted(self.states.get(device_id, {}).items(), key=lambda item: item[0][1])]

    # ------------------------------------------------------------ HTTP

    @contextmanager
    def serving(self) -> Iterator["UpdateServerSimulator"]:
        """Serve on a free loopback port."""
        simulator = self

        class Requests(BaseHTTPRequestHandler):
            # Head and body are two writes: without this the second waits 40 ms for the first to be acknowledged.
            disable_nagle_algorithm = True
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                try:
                    simulator.respond(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def do_POST(self) -> None:
                simulator.renew(self)

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Devices hang up in the middle of an answer; that is what many of these tests are about."""

        server = Server(("127.0.0.1", 0), Requests)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        path, _, query = request.path.partition("?")
        wanted = request.headers.get("Range")
        self.requests.append((path, wanted))
        if path.startswith("/image/metadata/"):
            self._send(request, self.metadata.get(path.rsplit("/", 1)[1]))
        elif path.startswith("/device/v1/blobs/"):
            digest = path.rsplit("/", 1)[1]
            if self.faults.status is not None or query != "ticket=good":
                request.send_response(self.faults.status or 403)
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            if digest in self.faults.short:
                self._send_short(request, self.blobs[digest], self.faults.short[digest], wanted)
                return
            self._send_blob(request, self.faults.altered.get(digest, self.blobs.get(digest)), wanted)
        else:
            self._send(request, None)

    def renew(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a certificate request; nothing else is posted."""
        status, headers, body = self.certificates.answer(request.rfile.read(int(request.headers["Content-Length"])))
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, body: bytes | None) -> None:
        request.send_response(404 if body is None else 200)
        request.send_header("Content-Length", str(len(body or b"")))
        request.end_headers()
        request.wfile.write(body or b"")

    @staticmethod
    def _send_short(request: BaseHTTPRequestHandler, body: bytes, there: int, wanted: str | None) -> None:
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        start = int(found[1]) if found else 0
        request.send_response(206 if found else 200)
        request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(body[start:there])
        request.close_connection = True

    def _write(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        sent = 0
        if self.faults.drips_after is not None:
            sent = min(self.faults.drips_after, len(body))
            request.wfile.write(body[:sent])
        while self.faults.drips_after is not None and sent < len(body):
            time.sleep(DRIP_S)
            request.wfile.write(body[sent : sent + DRIP_BYTES])
            sent += DRIP_BYTES
        request.wfile.write(body[sent:])

    def _send_blob(self, request: BaseHTTPRequestHandler, body: bytes | None, wanted: str | None) -> None:
        if body is None:
            self._send(request, None)
            return
        start = 0
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if found and not self.faults.ignore_ranges:
            start = int(found[1])
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        rest = body[start:]
        cut = self.faults.cut_after_bytes if self.faults.cuts_left > 0 else None
        if self.faults.endless:
            request.send_header("Connection", "close")
        else:
            request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        if cut is not None and cut < len(rest):
            self.faults.cuts_left -= 1
            rest = rest[:cut]
            request.close_connection = True
        self._write(request, rest)
        if self.faults.endless:
            while True:
                request.wfile.write(b"\0" * 65_536)


class MemoryBroker:
    """`ports.Broker` over a simulator in the same thread: what is published is answered before `publish` returns.

    A message with a topic that the device has not subscribed to is not delivered, as with the real broker.
    """

    def __init__(self, server: UpdateServerSimulator, device_id: str) -> None:
        self.server = server
        self.device_id = device_id
        self.up = False
        self.reachable = True
        self.topics = {topics.down(device_id, kind) for kind in Down}
        self.published: list[tuple[str, bytes]] = []
        self.renewals = 0
        self._received: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self._connected: Callable[[bool], None] = lambda _up: None

    def start(self, received: Callable[[str, bytes], None], connected: Callable[[bool], None]) -> None:
        self._received, self._connected = received, connected
        if self.reachable:
            self.connect()

    def connect(self) -> None:
        self.up = True
        self._connected(True)

    def disconnect(self) -> None:
        self.up = False
        self._connected(False)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        if not self.up:
            return False
        self.published.append((topic, payload))
        parsed = topics.parse_up(topic)
        assert parsed.device_id == self.device_id
        for kind, answer in self.server.take(self.device_id, parsed.kind, payload):
            self.deliver(topics.down(self.device_id, kind), answer)
        return True

    def deliver(self, topic: str, payload: bytes) -> None:
        """A message from the server's side."""
        if topic in self.topics:
            self._received(topic, payload)

    def subscribe(self, topic: str) -> None:
        self.topics.add(topic)

    def renew_identity(self) -> None:
        self.renewals += 1
        if self.up:
            self.disconnect()
            self.connect()

    def stop(self) -> None:
        self.up = False


def retold(told: Told, **changes: Any) -> Told:
    """A changed copy of what a device is told."""
    return replace(told, **changes)


def later(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
