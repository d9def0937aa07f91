"""TUF roles as data: what each builder says, and that python-tuf accepts it."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from fleet.domain import repository
from fleet.domain.repository import NamedTarget, Profile

NOW = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
MODEL = "vision.digits"
TARGET = NamedTarget(f"models/{MODEL}/1/onnx-fp32-any.json", 700, "a" * 64, {"v": 1})


def _signer() -> CryptoSigner:
    return CryptoSigner(Ed25519PrivateKey.generate())


def _role(*targets: NamedTarget) -> Targets:
    empty = repository.model_role(profile=Profile.DEV, now=NOW).signed
    return repository.with_targets(empty, targets, profile=Profile.DEV, now=NOW).signed


def test_image_root__keys_of_four_roles__each_delegation_verifies_with_its_own_key_only() -> None:
    root, targets, snapshot, timestamp = (_signer() for _ in range(4))
    metadata = repository.image_root(
        root_keys=[root.public_key],
        targets_keys=[targets.public_key],
        snapshot_key=snapshot.public_key,
        timestamp_key=timestamp.public_key,
        threshold=1,
        now=NOW,
    )
    parsed: Metadata[Root] = Metadata.from_bytes(repository.signed(metadata, [root]))
    parsed.signed.verify_delegate("root", parsed.signed_bytes, parsed.signatures)
    assert parsed.signed.consistent_snapshot is True
    stamp = repository.timestamp(3, version=7, now=NOW)
    stamp.sign(timestamp)
    parsed.signed.verify_delegate("timestamp", stamp.signed_bytes, stamp.signatures)
    stamp.sign(snapshot)
    with pytest.raises(UnsignedMetadataError):
        parsed.signed.verify_delegate("timestamp", stamp.signed_bytes, stamp.signatures)


def test_image_root__threshold_of_two__one_signature_is_not_enough() -> None:
    people = [_signer(), _signer(), _signer()]
    keys = [person.public_key for person in people]
    metadata = repository.image_root(
        root_keys=keys, targets_keys=keys, snapshot_key=keys[0], timestamp_key=keys[0], threshold=2, now=NOW
    )
    repository.signed(metadata, people[:1])
    with pytest.raises(UnsignedMetadataError):
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    repository.signed(metadata, people[1:2])
    metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)


@pytest.mark.parametrize("threshold", [-1, 0, 2])
def test_roots__threshold_that_the_keys_cannot_meet__refused(threshold: int) -> None:
    key = _signer().public_key
    with pytest.raises(ValueError, match="threshold"):
        repository.director_root(root_keys=[key], online_key=key, threshold=threshold, now=NOW)
    with pytest.raises(ValueError, match="threshold"):
        repository.with_model(
            repository.image_targets(now=NOW).signed, model=MODEL, keys=[key], threshold=threshold, now=NOW
        )


def test_director_root__one_online_key__signs_the_three_roles_of_a_bundle_and_not_root() -> None:
    root, online = _signer(), _signer()
    signed = repository.director_root(
        root_keys=[root.public_key], online_key=online.public_key, threshold=1, now=NOW
    ).signed
    assert {name: role.keyids for name, role in signed.roles.items()} == {
        "root": [root.public_key.keyid],
        **{role: [online.public_key.keyid] for role in repository.DIRECTOR_ROLES},
    }


def test_with_model__role__owns_its_own_paths_only_and_ends_the_search() -> None:
    key = _signer().public_key
    first = repository.image_targets(now=NOW)
    targets = repository.with_model(first.signed, model=MODEL, keys=[key], threshold=1, now=NOW).signed
    assert targets.version == 2
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    role = targets.delegations.roles[MODEL]
    assert role.terminating
    assert role.is_delegated_path(f"models/{MODEL}/1/onnx-fp32-any.json")
    for foreign in (
        "models/vision.digit/1/onnx-fp32-any.json",
        "models/vision.digits2/1/onnx-fp32-any.json",
        f"models/{MODEL}/1/2/onnx-fp32-any.json",
        f"models/{MODEL}/onnx-fp32-any.json",
        f"deltas/{MODEL}/1/x",
    ):
        assert not role.is_delegated_path(foreign)
    assert first.signed.delegations is not None
    assert first.signed.delegations.roles == {}


def test_with_model__keys_replaced__old_key_is_gone_and_other_models_keep_theirs() -> None:
    old, new, other = _signer().public_key, _signer().public_key, _signer().public_key
    targets = repository.image_targets(now=NOW).signed
    for model, key in ((MODEL, old), ("vision.cracks", other), (MODEL, new)):
        targets = repository.with_model(targets, model=model, keys=[key], threshold=1, now=NOW).signed
    assert targets.delegations is not None
    assert set(targets.delegations.keys) == {new.keyid, other.keyid}


def test_with_targets__path_that_is_taken__refused_because_versions_are_immutable() -> None:
    with pytest.raises(ValueError, match="immutable"):
        repository.with_targets(_role(TARGET), [TARGET], profile=Profile.DEV, now=NOW)


def test_with_targets__given_role__unchanged() -> None:
    role = _role(TARGET)
    other = NamedTarget(f"models/{MODEL}/2/onnx-fp32-any.json", 1, "b" * 64)
    following = repository.with_targets(role, [other], profile=Profile.DEV, now=NOW).signed
    assert (following.version, set(following.targets)) == (role.version + 1, {TARGET.path, other.path})
    assert set(role.targets) == {TARGET.path}
    assert following.targets[TARGET.path].custom == {"v": 1}
    assert following.targets[other.path].custom is None


def test_without_version__label__takes_all_its_variants_and_no_other_version() -> None:
    def target(version: str, variant: str) -> NamedTarget:
        return NamedTarget(f"models/{MODEL}/{version}/{variant}.json", 1, "c" * 64)

    role = _role(target("1", "onnx-fp32-any"), target("1", "onnx-int8-any"), target("11", "onnx-fp32-any"))
    left = repository.without_version(role, "1", profile=Profile.DEV, now=NOW).signed
    assert list(left.targets) == [f"models/{MODEL}/11/onnx-fp32-any.json"]
    assert left.version == role.version + 1


def test_extended__role_with_delegations__same_content_later_expiry() -> None:
    key = _signer().public_key
    targets = repository.with_model(
        repository.image_targets(now=NOW).signed, model=MODEL, keys=[key], threshold=1, now=NOW
    ).signed
    later = repository.extended(targets, lifetime=repository.TARGETS_LIFETIME, now=NOW + timedelta(days=30)).signed
    assert later.delegations == targets.delegations
    assert (later.version, later.expires) == (targets.version + 1, targets.expires + timedelta(days=30))


@pytest.mark.parametrize(("profile", "days"), [(Profile.DEV, 365), (Profile.PROD, 90)])
def test_model_role__profile__decides_how_long_it_lives(profile: Profile, days: int) -> None:
    expires = repository.model_role(profile=profile, now=NOW).signed.expires
    assert expires == NOW.replace(microsecond=0) + timedelta(days=days)


def test_expiry__local_time__said_in_utc() -> None:
    local = NOW.astimezone(timezone(timedelta(hours=9)))
    assert repository.expiry(local, timedelta(days=1)) == datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def test_director_targets__binding_and_assignment__only_sha256_and_no_delegations() -> None:
    metadata = repository.director_targets([NamedTarget("device/cam-01", 0, "d" * 64), TARGET], version=9, now=NOW)
    assert metadata.signed.delegations is None
    assert {path: list(target.hashes) for path, target in metadata.signed.targets.items()} == {
        "device/cam-01": ["sha256"],
        TARGET.path: ["sha256"],
    }


def test_signed__two_signers__both_signatures_and_compact_bytes() -> None:
    first, second = _signer(), _signer()
    payload = repository.signed(repository.snapshot({"targets": 1, MODEL: 4}, version=2, now=NOW), [first, second])
    assert set(Metadata.from_bytes(payload).signatures) == {first.public_key.keyid, second.public_key.keyid}
    assert b"\n" not in payload
    assert b": " not in payload
