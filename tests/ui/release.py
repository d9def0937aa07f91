"""Versions made the way a pipeline makes them: keys, roles, manifests, small real models, uploads, publication."""

import hashlib
import io
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from device_client.wire.bundles import BundleFile, Contract, FileRole, Manifest, Tensor
from device_client.wire.names import ManifestPath, VariantName
from fleet.apps.registry import services as registry
from fleet.apps.registry.records import VersionRecord
from fleet.apps.trust import services as trust
from fleet.domain import repository
from fleet.domain.repository import NamedTarget, Profile
from fleet.wiring import installation, server

HIDDEN = 512
ACTOR = "user:ada"
PIPELINE = "token:ci-vision"


def make_onnx(version: int, *, quantised: bool) -> bytes:
    """`image [N, 64] -> scores [N, 10]`. All versions share the first layer, as models that are trained on do."""
    first = np.random.default_rng(1).integers(-100, 100, size=(64, HIDDEN), dtype=np.int8)
    second = np.random.default_rng(100 + version).integers(-100, 100, size=(HIDDEN, 10), dtype=np.int8)
    nodes, weights = [], []
    for name, array in (("first", first), ("second", second)):
        if quantised:
            scale = numpy_helper.from_array(np.array(0.01, np.float32), f"{name}_scale")
            zero = numpy_helper.from_array(np.array(0, np.int8), f"{name}_zero")
            weights += [numpy_helper.from_array(array, f"{name}_q"), scale, zero]
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale", f"{name}_zero"], [name]))
        else:
            weights.append(numpy_helper.from_array(array.astype(np.float32), name))
    nodes += [
        helper.make_node("MatMul", ["image", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="tests")
    return bytes(model.SerializeToString())


@dataclass
class Pipeline:
    """A pipeline with the keys of one model, talking to the services that its HTTP calls would reach."""

    model: str
    root_key: CryptoSigner = field(default_factory=lambda: CryptoSigner(Ed25519PrivateKey.generate()))
    key: CryptoSigner = field(default_factory=lambda: CryptoSigner(Ed25519PrivateKey.generate()))
    role: Metadata[Targets] | None = None
    weights: dict[str, str] = field(default_factory=dict)
    """The weights file of each manifest's digest."""

    def set_up(self, now: datetime) -> None:
        """Roots, namespace, model, delegation, the first empty role."""
        installation.prepare_secrets()
        online = server.online_keys()
        public = [self.root_key.public_key]
        root = repository.image_root(
            root_keys=public,
            targets_keys=public,
            snapshot_key=online.snapshot,
            timestamp_key=online.timestamp,
            threshold=1,
            now=now,
        )
        targets = repository.image_targets(now=now)
        director = repository.director_root(root_keys=public, online_key=online.director, threshold=1, now=now)
        trust.import_roots(
            image_root=repository.signed(root, [self.root_key]),
            image_targets=repository.signed(targets, [self.root_key]),
            director_root=repository.signed(director, [self.root_key]),
            online=online,
            actor=ACTOR,
            now=now,
        )
        registry.create_namespace(name=self.model.split(".")[0], profile="dev", actor=ACTOR, now=now)
        registry.create_model(
            name=self.model,
            description="Handwritten digits on 8x8 pixels, read at the till.",
            plan_key=hashlib.sha256(self.model.encode()).hexdigest()[:32],
            actor=ACTOR,
            now=now,
        )
        delegated = repository.with_model(
            targets.signed, model=self.model, keys=[self.key.public_key], threshold=1, now=now
        )
        trust.stage_image_targets(payload=repository.signed(delegated, [self.root_key]), actor=ACTOR, now=now)
        self.role = repository.model_role(profile=Profile.DEV, now=now)
        registry.stage_model_role(
            model=self.model, payload=repository.signed(self.role, [self.key]), actor=PIPELINE, now=now
        )
        server.publish_image(now)

    def push(self, number: int, now: datetime, *, notes: str = "", publish: bool = True) -> VersionRecord:
        """A version with an fp32 and an int8 variant."""
        assert self.role is not None
        manifests = [self._manifest(number, slug, now) for slug in ("onnx-fp32-any", "onnx-int8-any")]
        added = [
            NamedTarget(str(ManifestPath(item.model, item.version, item.variant)), len(item.encode()), item.digest)
            for item in manifests
        ]
        self.role = repository.with_targets(self.role.signed, added, profile=Profile.DEV, now=now)
        record = registry.finalise_version(
            model=self.model,
            manifests=[item.encode() for item in manifests],
            role_payload=repository.signed(self.role, [self.key]),
            notes=notes,
            git_sha=hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest(),
            metadata={"mlflow_run": f"run-{number:04d}", "dataset": "digits 2026-02"},
            store=server.blob_store(),
            actor=PIPELINE,
            now=now,
        )
        if publish:
            server.publish_image(now)
        return record

    def _manifest(self, number: int, slug: str, now: datetime) -> Manifest:
        content = {
            "model.onnx": (FileRole.WEIGHTS, make_onnx(number, quantised="int8" in slug)),
            "labels.txt": (FileRole.LABELS, "".join(f"{digit}\n" for digit in range(10)).encode()),
        }
        files = [BundleFile(name, role, self._upload(data, now), len(data)) for name, (role, data) in content.items()]
        labels = next(file.sha256 for file in files if file.role is FileRole.LABELS)
        manifest = Manifest(
            model=self.model,
            version=str(number),
            variant=VariantName.parse(slug),
            format="onnx",
            files=tuple(files),
            contract=Contract({"image": Tensor("float32", (1, 64))}, {"scores": Tensor("float32", (1, 10))}, labels),
        )
        self.weights[manifest.digest] = manifest.weights.sha256
        return manifest

    def _upload(self, data: bytes, now: datetime) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        record = registry.begin_upload(
            sha256=sha256, length=len(data), actor=PIPELINE, store=server.blob_store(), now=now
        )
        if not record.complete:
            registry.append_upload(
                sha256=sha256,
                offset=0,
                chunk=io.BytesIO(data),
                limit=len(data),
                store=server.blob_store(),
                spool=server.upload_spool(),
                now=now,
            )
        return sha256
