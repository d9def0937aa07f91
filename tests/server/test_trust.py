"""Roots, publication and director bundles, checked with the client that devices use."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from device_client.wire.director import Answer, Arm, Assigned, Binding, Decision
from fleet.apps.registry import selectors as registry
from fleet.apps.trust import selectors, services
from fleet.apps.trust.models import SignedMetadata
from fleet.apps.trust.records import DirectorTarget, OnlineKeys, Repository
from fleet.domain import repository as roles
from fleet.domain.errors import ConflictError, InvalidInputError, RefusedError, UnavailableError
from tests.fakes.metadata_fetcher import updater
from tests.server import ceremony
from tests.server.catalogue import NOW
from tests.server.ceremony import hold_ceremony, new_signer
from tests.server.pipeline import MODEL, Pipeline, open_pipeline, weights

pytestmark = pytest.mark.django_db

PATH = f"models/{MODEL}/1/onnx-fp32-any.json"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """The real time: python-tuf's client reads the clock itself."""
    moment = datetime.now(UTC).replace(microsecond=0)
    for module in ("tests.server.ceremony", "tests.server.pipeline"):
        monkeypatch.setattr(f"{module}.NOW", moment)
    return moment


def pipeline_at(now: datetime) -> Pipeline:
    pipeline = Pipeline(ceremony.hold_ceremony())
    pipeline.create_model(now=now)
    pipeline.publish(now=now)
    return pipeline


def image_root() -> bytes:
    texts = selectors.first_roots()
    assert texts is not None
    return texts[0].encode()


# ------------------------------------------------------------------------------------------ roots


def test_roots__imported_twice__conflict() -> None:
    hold_ceremony()
    with pytest.raises(ConflictError) as refused:
        hold_ceremony()
    assert refused.value.code == "roots_exist"


def test_roots__nothing_imported__nothing_works() -> None:
    assert selectors.anchors("pem") is None
    assert not selectors.trust_state().roots_imported
    with pytest.raises(ConflictError, match="keys init"):
        services.stage_image_targets(payload=b"{}", actor="test", now=NOW)
    with pytest.raises(UnavailableError):
        services.sign_director_bundle(
            device_id="cam-1", binding=Binding("00" * 16, 1, 60), targets=[], signer=new_signer(), now=NOW
        )


def test_anchors__after_a_root_rotation__same_bytes() -> None:
    keys = hold_ceremony()
    before = selectors.anchors("pem")
    successor = roles.image_root(
        root_keys=[keys.root.public_key],
        targets_keys=[keys.targets.public_key],
        snapshot_key=keys.snapshot.public_key,
        timestamp_key=keys.timestamp.public_key,
        threshold=1,
        now=NOW,
        version=2,
    )
    payload = roles.signed(successor, [keys.root])
    online = OnlineKeys(keys.snapshot.public_key, keys.timestamp.public_key, keys.director.public_key)
    services.rotate_root(repository=Repository.IMAGE, payload=payload, online=online, actor="test", now=NOW)
    assert selectors.anchors("pem") == before
    assert selectors.require_root(Repository.IMAGE).version == 2


@pytest.mark.parametrize(
    ("version", "signed_by", "snapshot", "code"),
    [
        (3, "root", "snapshot", "role_version"),
        (2, "director_root", "snapshot", "signature_invalid"),
        (2, "root", "director", "online_key"),
    ],
)
def test_root__that_does_not_follow__refused(version: int, signed_by: str, snapshot: str, code: str) -> None:
    keys = hold_ceremony()
    successor = roles.image_root(
        root_keys=[keys.root.public_key],
        targets_keys=[keys.targets.public_key],
        snapshot_key=getattr(keys, snapshot).public_key,
        timestamp_key=keys.timestamp.public_key,
        threshold=1,
        now=NOW,
        version=version,
    )
    online = OnlineKeys(keys.snapshot.public_key, keys.timestamp.public_key, keys.director.public_key)
    with pytest.raises(RefusedError) as refused:
        services.rotate_root(
            repository=Repository.IMAGE,
            payload=roles.signed(successor, [getattr(keys, signed_by)]),
            online=online,
            actor="test",
            now=NOW,
        )
    assert refused.value.code == code


@pytest.mark.parametrize("role", ["snapshot", "timestamp", "director"])
def test_roots__name_another_online_key__refused(role: str) -> None:
    keys = ceremony.Keys(*(new_signer() for _ in range(6)))
    online = {name: getattr(keys, name).public_key for name in ("snapshot", "timestamp", "director")}
    image = roles.image_root(
        root_keys=[keys.root.public_key],
        targets_keys=[keys.targets.public_key],
        snapshot_key=online["snapshot"],
        timestamp_key=online["timestamp"],
        threshold=1,
        now=NOW,
    )
    director = roles.director_root(
        root_keys=[keys.director_root.public_key], online_key=online["director"], threshold=1, now=NOW
    )
    online[role] = new_signer().public_key
    with pytest.raises(InvalidInputError) as refused:
        services.import_roots(
            image_root=roles.signed(image, [keys.root]),
            image_targets=roles.signed(roles.image_targets(now=NOW), [keys.targets]),
            director_root=roles.signed(director, [keys.director_root]),
            online=OnlineKeys(**online),
            actor="test",
            now=NOW,
        )
    assert refused.value.code == "online_key"
    assert not SignedMetadata.objects.exists()


# ------------------------------------------------------------------------------------------ publication


def test_publication__a_version__found_by_the_client(now: datetime, tmp_path: Path) -> None:
    pipeline = pipeline_at(now)
    record = pipeline.push("1", now=now)
    client = updater(tmp_path / "m", image_root(), pipeline.files.files)
    client.refresh()
    found = client.get_targetinfo(PATH)
    assert found is not None
    assert found.hashes == {"sha256": record.variants[0].digest}


def test_publication__order__timestamp_last() -> None:
    pipeline = open_pipeline()
    pipeline.files.written.clear()
    pipeline.push("1")
    assert pipeline.files.written[-1] == "timestamp.json"
    assert f"2.{MODEL}.json" in pipeline.files.written


def test_publication__nothing_to_do__writes_nothing() -> None:
    pipeline = open_pipeline()
    pipeline.files.written.clear()
    assert pipeline.publish(NOW + timedelta(minutes=59)) == ()
    assert pipeline.files.written == []


def test_publication__timestamp_an_hour_old__renewed_and_old_ones_dropped() -> None:
    pipeline = open_pipeline()
    for hour in range(1, 8):
        pipeline.publish(NOW + timedelta(hours=hour, minutes=1))
    newest = json.loads(pipeline.files.files["timestamp.json"])["signed"]
    assert newest["version"] == 8
    assert SignedMetadata.objects.filter(role="timestamp").count() == 3
    assert selectors.published_version("snapshot") == 1


def test_publication__snapshot_a_day_old__renewed_before_it_expires() -> None:
    pipeline = open_pipeline()
    pipeline.publish(NOW + timedelta(days=1, minutes=1))
    assert selectors.published_version("snapshot") == 2


def test_publication__died_before_the_files__mended_by_the_next_turn(now: datetime, tmp_path: Path) -> None:
    pipeline = pipeline_at(now)
    pipeline.finalise(pipeline.manifest("1", weights("1")), now=now)
    lost = type(pipeline.files)()
    services.publish_staged(snapshot=pipeline.keys.snapshot, timestamp=pipeline.keys.timestamp, files=lost, now=now)
    assert pipeline.publish(now) == ()
    client = updater(tmp_path / "m", image_root(), pipeline.files.files)
    assert client.get_targetinfo(PATH) is not None


def test_publication__two_models_in_one_turn__one_snapshot(now: datetime, tmp_path: Path) -> None:
    pipeline = pipeline_at(now)
    other = Pipeline(pipeline.keys, model="audio.words", files=pipeline.files)
    other.create_model(now=now)
    pipeline.finalise(pipeline.manifest("1", weights("1")), now=now)
    other.finalise(other.manifest("1", weights("1")), now=now)
    before = selectors.published_version("snapshot")
    assert set(pipeline.publish(now)) == {"targets", MODEL, "audio.words"}
    assert selectors.published_version("snapshot") == before + 1
    client = updater(tmp_path / "m", image_root(), pipeline.files.files)
    assert client.get_targetinfo("models/audio.words/1/onnx-fp32-any.json") is not None
    assert client.get_targetinfo(PATH) is not None


def test_trust_state__roles__with_their_expiry() -> None:
    open_pipeline()
    state = selectors.trust_state()
    assert state.roots_imported
    named = {(role.repository, role.role): role for role in state.roles}
    assert named[Repository.IMAGE, MODEL].published_version == 1
    assert [role.role for role in state.expiring(NOW + timedelta(days=3))] == ["timestamp"]
    assert named[Repository.IMAGE, "snapshot"].expires_at == NOW + timedelta(days=7)


# ------------------------------------------------------------------------------------------ director


def director_root() -> bytes:
    texts = selectors.first_roots()
    assert texts is not None
    return texts[1].encode()


def test_bundle__for_a_device__verified_by_the_client(now: datetime, tmp_path: Path) -> None:
    pipeline = pipeline_at(now)
    variant = pipeline.push("1", now=now).variants[0]
    answer = Answer(Decision.NOW, "because", registry.model(MODEL).plan_key)
    assigned = Assigned(MODEL, "1", 1, "r-000000000000", Arm.TREATED, 0, "first phase")
    target = DirectorTarget(PATH, len(variant.manifest_bytes), variant.digest, assigned.encode())
    files = services.sign_director_bundle(
        device_id="cam-0001",
        binding=Binding("ab" * 16, int(now.timestamp()), 60, {MODEL: answer}),
        targets=[target],
        signer=pipeline.keys.director,
        now=now,
    )
    client = updater(tmp_path / "d", director_root(), {name: text.encode() for name, text in files.items()})
    client.refresh()
    bound = client.get_targetinfo("device/cam-0001")
    assert bound is not None
    assert Binding.parse(bound.custom).nonce == "ab" * 16
    named = client.get_targetinfo(PATH)
    assert named is not None
    assert Assigned.parse(named.custom) == assigned
    assert client.get_targetinfo("device/cam-0002") is None


def sign(keys: ceremony.Keys, now: datetime, device: str = "cam-0001") -> int:
    files = services.sign_director_bundle(
        device_id=device,
        binding=Binding("ab" * 16, int(now.timestamp()), 60),
        targets=[],
        signer=keys.director,
        now=now,
    )
    return int(json.loads(files["timestamp.json"])["signed"]["version"])


def test_bundle__versions__rise_and_follow_the_clock() -> None:
    keys = hold_ceremony()
    seconds = int(NOW.timestamp())
    assert [sign(keys, NOW) for _ in range(3)] == [seconds, seconds + 1, seconds + 2]
    assert sign(keys, NOW - timedelta(days=1)) == seconds + 3
    assert sign(keys, NOW + timedelta(days=1)) == seconds + 86_400
    assert sign(keys, NOW, device="cam-0002") == seconds


def test_bundle__director_root_was_rotated__carries_the_chain(now: datetime, tmp_path: Path) -> None:
    keys = ceremony.hold_ceremony()
    fresh = new_signer()
    successor = roles.director_root(
        root_keys=[keys.director_root.public_key], online_key=fresh.public_key, threshold=1, now=now, version=2
    )
    services.rotate_root(
        repository=Repository.DIRECTOR,
        payload=roles.signed(successor, [keys.director_root]),
        online=OnlineKeys(keys.snapshot.public_key, keys.timestamp.public_key, fresh.public_key),
        actor="test",
        now=now,
    )
    files = services.sign_director_bundle(
        device_id="cam-0001", binding=Binding("ab" * 16, 1, 60), targets=[], signer=fresh, now=now
    )
    assert "2.root.json" in files
    client = updater(tmp_path / "d", director_root(), {name: text.encode() for name, text in files.items()})
    client.refresh()
    assert client.get_targetinfo("device/cam-0001") is not None
