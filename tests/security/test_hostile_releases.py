"""Attacks on what a pipeline hands in (numbers as in docs/threats): each is refused, and nothing of it stays.

A5 threshold, A6 delegation escape, A7 role of another delegator, A8 threshold 0, A29 paths, A30 unlisted files,
A32 lengths beyond 32 bits, A34 stale base.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from device_client.wire.bundles import BundleFile, FileRole, Manifest
from device_client.wire.names import VariantName
from fleet.apps.registry import services as registry
from fleet.apps.registry.models import Version
from fleet.apps.trust import selectors as trust_selectors
from fleet.apps.trust import services as trust
from fleet.apps.trust.models import SignedMetadata
from fleet.apps.trust.records import Repository
from fleet.domain import repository as roles
from fleet.domain.errors import ConflictError, InvalidInputError, RefusedError, TooLargeError
from fleet.domain.repository import NamedTarget, Profile
from tests.domain import model_files
from tests.server.catalogue import NOW
from tests.server.ceremony import new_signer
from tests.server.pipeline import MODEL, Pipeline, altered, open_pipeline, target_of, weights

pytestmark = pytest.mark.django_db


@pytest.fixture
def pipeline() -> Pipeline:
    opened = open_pipeline()
    opened.push("1")
    return opened


def refused(pipeline: Pipeline, code: str, attack: Callable[[], object]) -> None:
    """The attack is refused with this code, and database and store are as they were."""
    rows = (Version.objects.count(), SignedMetadata.objects.count())
    blobs = set(pipeline.store.blobs)
    with pytest.raises(RefusedError) as error:
        attack()
    assert error.value.code == code, error.value.message
    assert (Version.objects.count(), SignedMetadata.objects.count()) == rows
    assert set(pipeline.store.blobs) <= blobs
    assert pipeline.publish() == ()


def named(path: str, content: bytes = b"{}") -> NamedTarget:
    return NamedTarget(path, len(content), "0" * 64)


def role_naming(pipeline: Pipeline, *targets: NamedTarget) -> bytes:
    return pipeline.sign(roles.with_targets(pipeline.current(), targets, profile=Profile.DEV, now=NOW))


# ------------------------------------------------------------------------------------------ signatures


def test_a5__role_signed_by_nobody__refused(pipeline: Pipeline) -> None:
    manifest = pipeline.manifest("2", weights("2"))
    unsigned = roles.signed(pipeline.role_with(manifest), [])
    refused(pipeline, "signature_invalid", lambda: pipeline.finalise(manifest, role=unsigned))


def test_a5__role_signed_by_another_key__refused(pipeline: Pipeline) -> None:
    manifest = pipeline.manifest("2", weights("2"))
    forged = pipeline.sign(pipeline.role_with(manifest), new_signer())
    refused(pipeline, "signature_invalid", lambda: pipeline.finalise(manifest, role=forged))


def test_a5__one_signature_given_twice__counts_once(pipeline: Pipeline) -> None:
    approver = new_signer()
    pipeline.delegate(pipeline.signer, approver, threshold=2)
    pipeline.publish()
    manifest = pipeline.manifest("2", weights("2"))
    document = json.loads(pipeline.sign(pipeline.role_with(manifest)))
    document["signatures"].append({**document["signatures"][0], "keyid": approver.public_key.keyid})
    twice = json.dumps(document).encode()
    refused(pipeline, "signature_invalid", lambda: pipeline.finalise(manifest, role=twice))


def test_a5__role_altered_after_signing__refused(pipeline: Pipeline) -> None:
    manifest = pipeline.manifest("2", weights("2"))
    signed = pipeline.sign(pipeline.role_with(manifest))
    for change in (
        lambda body: body.update(version=body["version"] + 1),
        lambda body: body.update(expires="2027-01-01T00:00:00Z"),
        lambda body: body["targets"].update({f"models/{MODEL}/9/onnx-fp32-any.json": _entry()}),
    ):
        tampered = altered(signed, change)
        with pytest.raises(RefusedError) as error:
            pipeline.finalise(manifest, role=tampered)
        assert error.value.code == "signature_invalid"


def _entry() -> dict[str, Any]:
    return {"length": 2, "hashes": {"sha256": "0" * 64}}


def test_a6__pipeline_signs_for_another_model__refused(pipeline: Pipeline) -> None:
    escape = role_naming(pipeline, named("models/vision.faces/1/onnx-fp32-any.json"))
    manifest = pipeline.manifest("2", weights("2"))
    refused(pipeline, "target_path", lambda: pipeline.finalise(manifest, role=escape))


def test_a6__role_of_one_model_sent_for_another__refused(pipeline: Pipeline) -> None:
    other = Pipeline(pipeline.keys, model="vision.faces", store=pipeline.store, files=pipeline.files)
    registry.create_model(name="vision.faces", description="", plan_key="1" * 32, actor="test", now=NOW)
    other.delegate()
    pipeline.publish()
    stolen = pipeline.sign(roles.model_role(profile=Profile.DEV, now=NOW))
    refused(pipeline, "signature_invalid", lambda: other.send_role(stolen))


def test_a7__role_that_delegates_on__refused(pipeline: Pipeline) -> None:
    metadata = roles.extended(pipeline.current(), lifetime=timedelta(days=30), now=NOW)
    inner = roles.with_model(metadata.signed, model=MODEL, keys=[new_signer().public_key], threshold=1, now=NOW)
    inner.signed.version = metadata.signed.version
    payload = pipeline.sign(inner)
    refused(pipeline, "role_delegates", lambda: pipeline.send_role(payload))


def test_a7__model_without_a_delegation__refused(pipeline: Pipeline) -> None:
    registry.create_model(name="vision.faces", description="", plan_key="1" * 32, actor="test", now=NOW)
    payload = pipeline.sign(roles.model_role(profile=Profile.DEV, now=NOW))
    stranger = Pipeline(pipeline.keys, model="vision.faces")
    refused(pipeline, "role_not_delegated", lambda: stranger.send_role(payload))


@pytest.mark.parametrize("threshold", [0, -1])
def test_a8__threshold_that_asks_for_nothing__refused(pipeline: Pipeline, threshold: int) -> None:
    current = trust_selectors.current_targets("targets")
    assert current is not None
    metadata = roles.with_model(current, model=MODEL, keys=[pipeline.signer.public_key], threshold=1, now=NOW)

    def lower(body: dict[str, Any]) -> None:
        body["delegations"]["roles"][0]["threshold"] = threshold

    payload = altered(roles.signed(metadata, [pipeline.keys.targets]), lower)
    refused(pipeline, "metadata_malformed", lambda: trust.stage_image_targets(payload=payload, actor="test", now=NOW))


@pytest.mark.parametrize(
    "change",
    [
        {"paths": ["*/*/*/*"]},
        {"paths": [f"models/{MODEL}/*/*", "models/vision.faces/*/*"]},
        {"terminating": False},
        {"name": "../../evil"},
    ],
    ids=["all paths", "another model's too", "not terminating", "a climbing name"],
)
def test_a29__delegation_of_more_than_one_model__refused(pipeline: Pipeline, change: dict[str, Any]) -> None:
    current = trust_selectors.current_targets("targets")
    assert current is not None
    metadata = roles.with_model(current, model=MODEL, keys=[pipeline.signer.public_key], threshold=1, now=NOW)
    document = metadata.to_dict()
    document["signed"]["delegations"]["roles"][0].update(change)
    changed = type(metadata).from_dict(document)
    payload = roles.signed(changed, [pipeline.keys.targets])
    refused(pipeline, "delegation_malformed", lambda: trust.stage_image_targets(payload=payload, actor="test", now=NOW))


def test_top_level_targets__list_a_file_themselves__refused(pipeline: Pipeline) -> None:
    current = trust_selectors.current_targets("targets")
    assert current is not None
    metadata = roles.extended(current, lifetime=timedelta(days=30), now=NOW)
    metadata.signed.targets["models/vision.digits/9/onnx-fp32-any.json"] = named("x").to_target_file()
    payload = roles.signed(metadata, [pipeline.keys.targets])
    refused(
        pipeline, "targets_not_delegated", lambda: trust.stage_image_targets(payload=payload, actor="test", now=NOW)
    )


# ------------------------------------------------------------------------------------------ names and lengths


@pytest.mark.parametrize(
    "path",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        f"models/{MODEL}/../../x.json",
        f"models/{MODEL}/1/../../../x.json",
        f"models/{MODEL}/2/onnx-fp32-any.json/x",
        f"models/{MODEL}/2/onnx-fp32-any",
        f"models/{MODEL}/2/onnx-fp32.json",
        f"models/{MODEL}/2/Onnx-fp32-any.json",
        f"models//{MODEL}/onnx-fp32-any.json",
        f"models/{MODEL}/2\n/onnx-fp32-any.json",
        f"models/{MODEL}/2/onnx-fp32-any.json\x00",
        "model.onnx",
    ],
)
def test_a29__target_path_of_another_form__refused(pipeline: Pipeline, path: str) -> None:
    payload = role_naming(pipeline, named(path))
    manifest = pipeline.manifest("2", weights("2"))
    refused(pipeline, "target_path", lambda: pipeline.finalise(manifest, role=payload))
    refused(pipeline, "target_path", lambda: pipeline.send_role(payload))


def test_target__two_hashes__refused(pipeline: Pipeline) -> None:
    manifest = pipeline.manifest("2", weights("2"))
    metadata = pipeline.role_with(manifest)
    next(iter(metadata.signed.targets.values())).hashes["sha512"] = "0" * 128
    payload = pipeline.sign(metadata)
    with pytest.raises(InvalidInputError) as error:
        pipeline.finalise(manifest, role=payload)
    assert error.value.code == "target_hashes"


def test_a30__manifest_beside_the_signed_ones__refused(pipeline: Pipeline) -> None:
    first = pipeline.manifest("2", weights("2"))
    second = pipeline.manifest("2", weights("2"), variant="onnx-fp32-coral")
    role = pipeline.sign(pipeline.role_with(first))
    refused(pipeline, "manifests_not_signed", lambda: pipeline.finalise(first, second, role=role))


def test_a30__signed_manifest_left_out__refused(pipeline: Pipeline) -> None:
    first = pipeline.manifest("2", weights("2"))
    second = pipeline.manifest("2", weights("2"), variant="onnx-fp32-coral")
    role = pipeline.sign(pipeline.role_with(first, second))
    refused(pipeline, "manifests_not_signed", lambda: pipeline.finalise(first, role=role))


def test_a30__manifest_other_than_the_signed_one__refused(pipeline: Pipeline) -> None:
    signed, other = pipeline.manifest("2", weights("2")), pipeline.manifest("2", weights("3"))
    role = pipeline.sign(pipeline.role_with(signed))
    refused(pipeline, "manifest_mismatch", lambda: pipeline.finalise(other, role=role))


def test_manifests__of_two_versions_in_one_role__refused(pipeline: Pipeline) -> None:
    two, three = pipeline.manifest("2", weights("2")), pipeline.manifest("3", weights("3"))
    refused(pipeline, "version_label", lambda: pipeline.finalise(two, three))


def test_manifest__says_another_length_than_the_blob_has__refused(pipeline: Pipeline) -> None:
    content = weights("2")
    for length in (len(content) + 1, len(content) + (1 << 32), 2**53 - 1, 0):
        files = (BundleFile("model.onnx", FileRole.WEIGHTS, pipeline.upload(content), length),)
        manifest = Manifest(MODEL, "2", VariantName.parse("onnx-fp32-any"), "onnx", files)
        with pytest.raises(InvalidInputError) as error:
            pipeline.finalise(manifest)
        assert error.value.code == "blob_length"


def test_a32__upload_beyond_what_is_allowed__refused_before_a_byte(pipeline: Pipeline) -> None:
    for length in ((1 << 63) - 1, 1 << 63, 1 << 64, 1 << 80):
        with pytest.raises(TooLargeError):
            registry.begin_upload(sha256="a" * 64, length=length, store=pipeline.store, actor="token:ci", now=NOW)


# ------------------------------------------------------------------------------------------ time and order


def test_a34__role_built_on_an_older_one__refused(pipeline: Pipeline) -> None:
    stale = pipeline.current()
    pipeline.push("2")
    manifest = pipeline.manifest("3", weights("3"))
    metadata = roles.with_targets(stale, [target_of(manifest)], profile=Profile.DEV, now=NOW)
    payload = pipeline.sign(metadata)
    refused(pipeline, "role_version", lambda: pipeline.finalise(manifest, role=payload))


@pytest.mark.parametrize("version", [1, 2, 4, 2**31 - 1])
def test_role__version_that_does_not_follow__conflict(pipeline: Pipeline, version: int) -> None:
    metadata = roles.extended(pipeline.current(), lifetime=timedelta(days=30), now=NOW)
    metadata.signed.version = version
    payload = pipeline.sign(metadata)
    refused(pipeline, "role_version", lambda: pipeline.send_role(payload))


def test_role__resurrects_a_revoked_version__refused(pipeline: Pipeline) -> None:
    revoked = pipeline.current()
    metadata = roles.without_version(revoked, "1", profile=Profile.DEV, now=NOW)
    registry.revoke_version(model=MODEL, label="1", payload=pipeline.sign(metadata), actor="test", now=NOW)
    pipeline.publish()
    again = roles.extended(revoked, lifetime=timedelta(days=30), now=NOW)
    again.signed.version = pipeline.current().version + 1
    payload = pipeline.sign(again)
    refused(pipeline, "role_adds_targets", lambda: pipeline.send_role(payload))
    with pytest.raises(ConflictError) as error:
        pipeline.finalise(
            role=payload,
            payloads=[
                _manifest_text("onnx-fp32-any"),
                _manifest_text("onnx-int8-any"),
            ],
        )
    assert error.value.code == "version_exists"


def _manifest_text(slug: str) -> bytes:
    from fleet.apps.registry import selectors

    variant = selectors.get_version(MODEL, "1").variant(slug)
    assert variant is not None
    return variant.manifest_bytes


@pytest.mark.parametrize("days", [0, -1, 367, 10_000])
def test_role__expiry_outside_its_bounds__refused(pipeline: Pipeline, days: int) -> None:
    metadata = roles.extended(pipeline.current(), lifetime=timedelta(days=days), now=NOW)
    payload = pipeline.sign(metadata)
    refused(pipeline, "role_expiry", lambda: pipeline.send_role(payload))


# ------------------------------------------------------------------------------------------ malformed


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"signed": ' * 30_000,
        b'{"signatures": [], "signed": {"_type": "targets", "version": ' + b"9" * 5_000 + b"}}",
        b"\xff" * 100,
        b'{"signatures": [], "signed": {"_type": "root"}}',
    ],
)
def test_role__malformed__refused(pipeline: Pipeline, payload: bytes) -> None:
    refused(pipeline, "metadata_malformed", lambda: pipeline.send_role(payload))
    refused(pipeline, "metadata_malformed", lambda: trust.stage_image_targets(payload=payload, actor="test", now=NOW))


def test_role__too_large__refused_before_it_is_parsed(pipeline: Pipeline) -> None:
    refused(pipeline, "metadata_too_large", lambda: pipeline.send_role(b"{" + b" " * (2 << 20)))


def test_role__metadata_of_another_type__refused(pipeline: Pipeline) -> None:
    root = trust_selectors.current_metadata(Repository.IMAGE, "root")
    assert root is not None
    refused(pipeline, "metadata_malformed", lambda: pipeline.send_role(root.payload))


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"[" * 60_000, b"{" + b" " * 70_000 + b"}"])
def test_manifest__malformed__refused(pipeline: Pipeline, payload: bytes) -> None:
    role = role_naming(pipeline, named(f"models/{MODEL}/2/onnx-fp32-any.json"))
    with pytest.raises(InvalidInputError) as error:
        pipeline.finalise(role=role, payloads=[payload])
    assert error.value.code.startswith("manifest_")


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", sorted(model_files.disguises()))
def test_weights__disguise__refused_and_gone(pipeline: Pipeline, name: str) -> None:
    content = model_files.disguises()[name]
    if not content:
        return
    manifest = pipeline.manifest("2", content)
    before = set(pipeline.store.blobs) - {file.sha256 for file in manifest.files}
    with pytest.raises(InvalidInputError):
        pipeline.finalise(manifest)
    kept = {file.sha256 for variant in _files_of("1") for file in variant}
    assert set(pipeline.store.blobs) == before | kept


def _files_of(label: str) -> list[tuple[BundleFile, ...]]:
    from fleet.apps.registry import selectors

    return [variant.manifest.files for variant in selectors.get_version(MODEL, label).variants]


@pytest.mark.parametrize("role", [FileRole.LABELS, FileRole.OTHER])
@pytest.mark.parametrize("protocol", [0, 1, 5])
def test_companion__pickle__refused(pipeline: Pipeline, role: FileRole, protocol: int) -> None:
    companions = {"labels.txt": (role, model_files.hostile_pickle(protocol))}
    manifest = pipeline.manifest("2", weights("2"), companions=companions)
    refused(pipeline, "file_forbidden", lambda: pipeline.finalise(manifest))
