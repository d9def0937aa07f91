"""Versions come into being whole or not at all."""

from datetime import timedelta

import pytest

from fleet.apps.registry import selectors, services
from fleet.apps.registry.models import Blob, Upload, Variant, VariantFile, Version
from fleet.apps.registry.records import VersionState
from fleet.apps.trust import selectors as trust_selectors
from fleet.apps.trust.records import Repository
from fleet.domain import repository as roles
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError
from fleet.domain.repository import Profile
from tests.server.catalogue import NOW
from tests.server.ceremony import hold_ceremony, new_signer
from tests.server.pipeline import MODEL, Pipeline, open_pipeline, weights

pytestmark = pytest.mark.django_db


@pytest.fixture
def pipeline() -> Pipeline:
    return open_pipeline()


def test_version__pushed__publishing_until_the_publisher_has_been_there(pipeline: Pipeline) -> None:
    record = pipeline.finalise(pipeline.manifest("1", weights("1")))
    assert (record.label, record.number, record.state) == ("1", 1, VersionState.PUBLISHING)
    assert pipeline.publish() == (MODEL,)
    published = selectors.get_version(MODEL, "1")
    assert published.state is VersionState.PUBLISHED
    assert published.published_at == NOW


def test_version__several_variants__each_inspected(pipeline: Pipeline) -> None:
    record = pipeline.push("1")
    assert [variant.slug for variant in record.variants] == ["onnx-fp32-any", "onnx-int8-any"]
    fp32 = record.variants[0]
    assert fp32.digest == fp32.manifest.digest
    assert fp32.inspection["dominant_dtype"] == "float32"
    assert selectors.weights_by_digest([fp32.digest]) == {fp32.digest: fp32.weights_sha256}


def test_version__numbered__per_model_whatever_the_label(pipeline: Pipeline) -> None:
    assert [pipeline.push(label).number for label in ("1", "2024-06", "x1")] == [1, 2, 3]


def test_version__same_label_again__refused(pipeline: Pipeline) -> None:
    pipeline.push("1")
    other = pipeline.manifest("1", weights("other"), variant="onnx-fp32-coral")
    with pytest.raises(ConflictError) as refused:
        pipeline.finalise(other)
    assert refused.value.code == "version_exists"


def test_version__signed_on_top_of_an_older_role__conflict(pipeline: Pipeline) -> None:
    first, second = pipeline.manifest("1", weights("1")), pipeline.manifest("2", weights("2"))
    late = pipeline.sign(pipeline.role_with(second))
    pipeline.finalise(first)
    with pytest.raises(ConflictError) as refused:
        pipeline.finalise(second, role=late)
    assert refused.value.code == "role_version"


def test_version__refused__leaves_no_version_no_role_no_blob(pipeline: Pipeline) -> None:
    blobs = set(pipeline.store.blobs)
    manifest = pipeline.manifest("1", b"not a model at all, whatever it is called")
    with pytest.raises(InvalidInputError) as refused:
        pipeline.finalise(manifest)
    assert refused.value.code == "format_unknown"
    assert not Version.objects.exists()
    assert not Variant.objects.exists()
    assert not VariantFile.objects.exists()
    assert not Upload.objects.exists()
    assert set(pipeline.store.blobs) == blobs
    assert not Blob.objects.exists()
    assert trust_selectors.current_metadata(Repository.IMAGE, MODEL).version == 1  # type: ignore[union-attr]
    assert pipeline.publish() == ()


def test_version__refused__spares_blobs_of_others_and_of_earlier_versions(pipeline: Pipeline) -> None:
    pipeline.push("1")
    kept = set(pipeline.store.blobs)
    foreign = pipeline.upload(b"somebody else's upload", actor="token:other")
    good = weights("1")
    manifest = pipeline.manifest("2", good, variant="onnx-int8-any")
    with pytest.raises(InvalidInputError):
        pipeline.finalise(manifest)
    with pytest.raises(InvalidInputError):
        pipeline.finalise(pipeline.manifest("2", b"somebody else's upload"))
    assert set(pipeline.store.blobs) == {*kept, foreign}


def test_version__blob_not_uploaded__refused(pipeline: Pipeline) -> None:
    manifest = pipeline.manifest("1", weights("1"))
    pipeline.store.blobs.clear()
    with pytest.raises(InvalidInputError) as refused:
        pipeline.finalise(manifest)
    assert refused.value.code == "blob_missing"


def test_version__production_namespace_with_one_key__refused() -> None:
    pipeline = Pipeline(hold_ceremony(), profile=Profile.PROD)
    pipeline.create_model()
    with pytest.raises(ConflictError) as refused:
        pipeline.finalise(pipeline.manifest("1", weights("1")))
    assert refused.value.code == "role_threshold"


def test_version__production_namespace_with_two_keys__accepted() -> None:
    pipeline, approver = Pipeline(hold_ceremony(), profile=Profile.PROD), new_signer()
    pipeline.create_model()
    pipeline.delegate(pipeline.signer, approver, threshold=2)
    manifest = pipeline.manifest("1", weights("1"))
    metadata = pipeline.role_with(manifest)
    with pytest.raises(InvalidInputError, match="1/2"):
        pipeline.finalise(manifest, role=pipeline.sign(pipeline.role_with(manifest)))
    manifest = pipeline.manifest("1", weights("1"))
    assert pipeline.finalise(manifest, role=pipeline.sign(metadata, pipeline.signer, approver)).label == "1"


def test_role__refreshed__versions_stay(pipeline: Pipeline) -> None:
    pipeline.push("1")
    later = NOW + timedelta(days=30)
    metadata = roles.extended(pipeline.current(), lifetime=timedelta(days=365), now=later)
    pipeline.send_role(pipeline.sign(metadata), now=later)
    assert selectors.get_version(MODEL, "1").state is VersionState.PUBLISHED
    assert pipeline.publish(now=later) == (MODEL,)


def test_role__adds_a_target_without_its_version__refused(pipeline: Pipeline) -> None:
    manifest = pipeline.manifest("1", weights("1"))
    with pytest.raises(InvalidInputError) as refused:
        pipeline.send_role(pipeline.sign(pipeline.role_with(manifest)))
    assert refused.value.code == "role_adds_targets"


def test_role__without_a_version__revokes_it(pipeline: Pipeline) -> None:
    pipeline.push("1")
    pipeline.push("2")
    metadata = roles.without_version(pipeline.current(), "1", profile=Profile.DEV, now=NOW)
    record = services.revoke_version(model=MODEL, label="1", payload=pipeline.sign(metadata), actor="test", now=NOW)
    assert record.state is VersionState.REVOKED
    assert selectors.get_version(MODEL, "2").state is VersionState.PUBLISHED
    with pytest.raises(ConflictError):
        services.revoke_version(model=MODEL, label="1", payload=b"{}", actor="test", now=NOW)


def test_revocation__role_that_removes_another_version__refused(pipeline: Pipeline) -> None:
    pipeline.push("1")
    pipeline.push("2")
    metadata = roles.without_version(pipeline.current(), "2", profile=Profile.DEV, now=NOW)
    with pytest.raises(InvalidInputError) as refused:
        services.revoke_version(model=MODEL, label="1", payload=pipeline.sign(metadata), actor="test", now=NOW)
    assert refused.value.code == "role_not_revocation"
    assert selectors.get_version(MODEL, "2").state is VersionState.PUBLISHED


def test_role__half_of_a_version_removed__refused(pipeline: Pipeline) -> None:
    pipeline.push("1")
    metadata = roles.extended(pipeline.current(), lifetime=timedelta(days=30), now=NOW)
    del metadata.signed.targets[f"models/{MODEL}/1/onnx-int8-any.json"]
    with pytest.raises(InvalidInputError) as refused:
        pipeline.send_role(pipeline.sign(metadata))
    assert refused.value.code == "version_half_removed"


def test_alias__moved__names_the_new_version(pipeline: Pipeline) -> None:
    pipeline.push("1")
    pipeline.push("2")
    for version in ("1", "2"):
        services.set_alias(model=MODEL, name="champion", version=version, actor="test", now=NOW)
    assert selectors.resolve(MODEL, "champion").label == "2"
    assert [alias.version for alias in selectors.aliases(MODEL)] == ["2"]
    services.delete_alias(model=MODEL, name="champion", actor="test", now=NOW)
    with pytest.raises(NotFoundError):
        selectors.resolve(MODEL, "champion")


def test_alias__version_not_published__refused(pipeline: Pipeline) -> None:
    pipeline.finalise(pipeline.manifest("1", weights("1")))
    with pytest.raises(ConflictError):
        services.set_alias(model=MODEL, name="champion", version="1", actor="test", now=NOW)


@pytest.mark.parametrize("name", ["", "Vision", "a" * 32, "vision.digits", "-x", "vi sion", "vision\n"])
def test_namespace__name_of_another_form__refused(name: str) -> None:
    with pytest.raises(InvalidInputError):
        services.create_namespace(name=name, profile="dev", actor="test", now=NOW)


def test_model__exists__conflict(pipeline: Pipeline) -> None:
    with pytest.raises(ConflictError):
        services.create_model(name=MODEL, description="", plan_key="0" * 32, actor="test", now=NOW)
    with pytest.raises(NotFoundError):
        services.create_model(name="other.digits", description="", plan_key="1" * 32, actor="test", now=NOW)


def test_publisher__died_between_files_and_versions__settled_by_the_next_turn(pipeline: Pipeline) -> None:
    from fleet.apps.trust import services as trust

    pipeline.finalise(pipeline.manifest("1", weights("1")))
    trust.publish_staged(
        snapshot=pipeline.keys.snapshot, timestamp=pipeline.keys.timestamp, files=pipeline.files, now=NOW
    )
    assert selectors.get_version(MODEL, "1").state is VersionState.PUBLISHING
    assert pipeline.publish() == ()
    assert selectors.get_version(MODEL, "1").state is VersionState.PUBLISHED
