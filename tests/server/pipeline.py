"""A release pipeline in memory: keys, signed roles, uploads and versions, against the services themselves."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Targets

from device_client.wire.bundles import BundleFile, Contract, FileRole, Manifest, Tensor
from device_client.wire.names import ManifestPath, VariantName
from fleet.apps.registry import services as registry
from fleet.apps.registry.records import VersionRecord
from fleet.apps.trust import selectors as trust_selectors
from fleet.apps.trust import services as trust
from fleet.domain import repository as roles
from fleet.domain.repository import NamedTarget, Profile
from tests.domain import model_files
from tests.fakes.blobs import MemoryBlobStore, MemoryMetadataFiles, MemoryUploadSpool
from tests.server.catalogue import NOW
from tests.server.ceremony import Keys, hold_ceremony, new_signer

MODEL = "vision.digits"
ACTOR = "token:ci"
CONTRACT = Contract({"image": Tensor("float32", (1, 64))}, {"scores": Tensor("float32", (1, 10))})
GOLDEN = b'{"inputs":{"image":[[0]]},"outputs":{"scores":[[0]]}}'


def sha256_of(content: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@dataclass
class Pipeline:
    """One model's pipeline, and the publisher that serves it."""

    keys: Keys
    signer: Signer = field(default_factory=new_signer)
    model: str = MODEL
    store: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    spool: MemoryUploadSpool = field(default_factory=MemoryUploadSpool)
    files: MemoryMetadataFiles = field(default_factory=MemoryMetadataFiles)
    profile: Profile = Profile.DEV

    # ---------------------------------------------------------------------------------- set-up

    def delegate(self, *signers: Signer, threshold: int = 1, now: datetime = NOW) -> None:
        """Have the offline key name who signs this model."""
        current = trust_selectors.current_targets("targets")
        assert current is not None
        keys = [signer.public_key for signer in signers or (self.signer,)]
        metadata = roles.with_model(current, model=self.model, keys=keys, threshold=threshold, now=now)
        trust.stage_image_targets(payload=roles.signed(metadata, [self.keys.targets]), actor="test", now=now)

    def create_model(self, now: datetime = NOW) -> None:
        """Namespace, model, delegation and the first empty role."""
        namespace = self.model.partition(".")[0]
        registry.create_namespace(name=namespace, profile=self.profile.value, actor="test", now=now)
        key = sha256_of(self.model.encode())[:32]
        registry.create_model(name=self.model, description="", plan_key=key, actor="test", now=now)
        self.delegate(now=now)
        self.send_role(self.sign(roles.model_role(profile=self.profile, now=now)), now=now)

    # ---------------------------------------------------------------------------------- roles

    def sign(self, metadata: Metadata[Targets], *signers: Signer) -> bytes:
        """The role's bytes under these signers, or this pipeline's own."""
        return roles.signed(metadata, signers or [self.signer])

    def current(self) -> Targets:
        """The newest role."""
        current = trust_selectors.current_targets(self.model)
        assert current is not None
        return current

    def send_role(self, payload: bytes, now: datetime = NOW) -> None:
        """Hand in a role without new versions."""
        registry.stage_model_role(model=self.model, payload=payload, actor=ACTOR, now=now)

    def role_with(self, *manifests: Manifest, now: datetime = NOW) -> Metadata[Targets]:
        """The next role, naming these manifests."""
        return roles.with_targets(self.current(), map(target_of, manifests), profile=self.profile, now=now)

    # ---------------------------------------------------------------------------------- versions

    def upload(self, content: bytes, *, actor: str = ACTOR, now: datetime = NOW) -> str:
        """Bring a blob; returns its sha256."""
        sha256 = sha256_of(content)
        state = registry.begin_upload(sha256=sha256, length=len(content), store=self.store, actor=actor, now=now)
        if not state.complete:
            registry.append_upload(
                sha256=sha256,
                offset=state.received,
                chunk=io.BytesIO(content[state.received :]),
                limit=len(content) - state.received,
                store=self.store,
                spool=self.spool,
                now=now,
            )
        return sha256

    def manifest(
        self,
        label: str,
        content: bytes,
        *,
        variant: str = "onnx-fp32-any",
        kind: str = "onnx",
        contract: Contract = CONTRACT,
        companions: Mapping[str, tuple[FileRole, bytes]] | None = None,
    ) -> Manifest:
        """A manifest over uploaded files."""
        files = [BundleFile("model.onnx", FileRole.WEIGHTS, self.upload(content), len(content))]
        for name, (role, extra) in (companions or {"golden.json": (FileRole.GOLDEN, GOLDEN)}).items():
            files.append(BundleFile(name, role, self.upload(extra), len(extra)))
        return Manifest(self.model, label, VariantName.parse(variant), kind, tuple(files), contract)

    def finalise(
        self,
        *manifests: Manifest,
        role: bytes | None = None,
        payloads: list[bytes] | None = None,
        actor: str = ACTOR,
        now: datetime = NOW,
    ) -> VersionRecord:
        """Hand in a version."""
        return registry.finalise_version(
            model=self.model,
            manifests=payloads if payloads is not None else [manifest.encode() for manifest in manifests],
            role_payload=role if role is not None else self.sign(self.role_with(*manifests, now=now)),
            notes="",
            git_sha="",
            metadata={},
            store=self.store,
            actor=actor,
            now=now,
        )

    def push(self, label: str, *, now: datetime = NOW, bias: float = 0.0) -> VersionRecord:
        """A version in fp32 and int8, published."""
        record = self.finalise(
            self.manifest(label, weights(label, bias)),
            self.manifest(label, weights(label, bias, quantised=True), variant="onnx-int8-any"),
            now=now,
        )
        self.publish(now=now)
        return record

    def publish(self, now: datetime = NOW) -> tuple[str, ...]:
        """One turn of the publisher; the roles that became public."""
        published = trust.publish_staged(
            snapshot=self.keys.snapshot, timestamp=self.keys.timestamp, files=self.files, now=now
        )
        registry.settle_published(now=now)
        return tuple(role.role for role in published)


def open_pipeline(model: str = MODEL) -> Pipeline:
    """Keys, roots, a model with its first role; published."""
    pipeline = Pipeline(hold_ceremony(), model=model)
    pipeline.create_model()
    pipeline.publish()
    return pipeline


def target_of(manifest: Manifest) -> NamedTarget:
    """How a role names a manifest."""
    payload = manifest.encode()
    path = ManifestPath(manifest.model, manifest.version, manifest.variant)
    return NamedTarget(str(path), len(payload), sha256_of(payload))


def weights(label: str, bias: float = 0.0, *, quantised: bool = False) -> bytes:
    """A real ONNX file that is another one for each label."""
    import numpy as np

    def named(model: object) -> None:
        model.doc_string = f"{label} {bias}"  # type: ignore[attr-defined]

    return model_files.onnx_model(dtype=np.int8 if quantised else np.float32, change=named)


def altered(payload: bytes, change: Callable[[dict[str, object]], None]) -> bytes:
    """Signed metadata after someone else's hand."""
    document = json.loads(payload)
    change(document["signed"])
    return json.dumps(document).encode()
