"""Attacks on a device, named after the list in docs/threats: each must leave it on what it ran before.

The attacker holds whatever the test says: the network, the director's online key, or the whole server. He never holds
the pipeline's key or the offline roots.
"""

import bz2
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bsdiff4
import pytest

from device_client.adapters.clock import SystemClock
from device_client.adapters.http import HttpDownloads, Pace
from device_client.adapters.identity import Anchors, IdentityPaths, load_anchors
from device_client.core.errors import (
    BindingError,
    ClockError,
    ConfigError,
    MetadataError,
    NotReadyError,
    ReplayError,
    StalledError,
)
from device_client.ports import Transfer
from device_client.wire import topics
from device_client.wire.bundles import Manifest, Requirements
from device_client.wire.limits import MAX_MESSAGE_BYTES
from device_client.wire.messages import BundleMessage, Capabilities, Check, CheckReason, RunningModel
from device_client.wire.names import VariantName
from device_client.wire.states import FailureCode, Transport, UpdateState
from device_client.wire.topics import Down
from fleet.domain import repository
from fleet.domain.repository import NamedTarget, Profile
from tests.device.rig import DEVICE, MODEL, Rig, connection_pool, weights
from tests.fakes.update_server import UpdateServerSimulator, key, sha256

NONCE = "ab" * 16
BOMB_MIB = 320


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Rig]:
    """A device that runs version 1."""
    with UpdateServerSimulator().serving() as server:
        rig = Rig(server, tmp_path / "state")
        server.assign(DEVICE, server.push(MODEL, "1", weights(1.0)), rollout="r-000000000001")
        rig.start()
        rig.run_to(UpdateState.COMMITTED)
        yield rig
        rig.unplug()


def check_of(device: Rig, nonce: str = NONCE) -> Check:
    running = RunningModel(MODEL, "1", device.current, "")
    return Check(nonce, CheckReason.POKE, (running,), 0, 0, Capabilities())


def honest(device: Rig, nonce: str = NONCE) -> BundleMessage:
    return device.server.answer(DEVICE, check_of(device, nonce))


def unharmed(device: Rig) -> None:
    """Still on version 1, still able to take an honest answer."""
    assert device.infer(1.0) == 2.0
    device.trust.accept(honest(device, "ef" * 16), "ef" * 16)


def refuse_in_the_end(device: Rig, manifest: Manifest, failure: FailureCode) -> None:
    device.poke()
    device.run_to(UpdateState.ROLLED_BACK, manifest)
    last = device.server.reports(DEVICE)[-1]
    assert (last.failure, last.active_digest) == (failure, device.current)
    assert device.infer(1.0) == 2.0


# ---------------------------------------------------------------- A1: a signature does not hold


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a1__director_signature_flipped__refused(device: Rig, role: str) -> None:
    bundle = honest(device)
    name = next(name for name in bundle.director if name.endswith(f"{role}.json"))
    content = json.loads(bundle.director[name])
    good = content["signatures"][0]["sig"]
    content["signatures"][0]["sig"] = ("0" if good[0] != "0" else "1") + good[1:]
    with pytest.raises(MetadataError):
        device.trust.accept(replace(bundle, director={**bundle.director, name: json.dumps(content)}), NONCE)
    unharmed(device)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", MODEL])
def test_a1__image_signature_flipped__refused(device: Rig, role: str) -> None:
    server = device.server
    second = server.push(MODEL, "2", weights(2.0))
    name = max((name for name in server.metadata if name.endswith(f"{role}.json")), key=lambda name: (len(name), name))
    content = json.loads(server.metadata[name])
    good = content["signatures"][0]["sig"]
    content["signatures"][0]["sig"] = ("0" if good[0] != "0" else "1") + good[1:]
    server.metadata[name] = json.dumps(content).encode()
    server.assign(DEVICE, second, rollout="r-000000000002")
    refuse_in_the_end(device, second, FailureCode.UNTRUSTED)


# ---------------------------------------------------------------- A2, A3, A12: the director says what the pipeline did not


def test_a2__director_names_a_version_that_nobody_signed__refused(device: Rig) -> None:
    server = device.server
    invented = replace(server.push(MODEL, "2", weights(2.0)), version="9")
    server.blobs[invented.digest] = invented.encode()
    server.assign(DEVICE, invented, rollout="r-000000000002")
    refuse_in_the_end(device, invented, FailureCode.UNTRUSTED)


def test_a3__director_gives_a_signed_path_other_content__refused(device: Rig) -> None:
    server = device.server
    signed = server.push(MODEL, "2", weights(2.0))
    server.blobs[sha256(weights(666.0))] = weights(666.0)
    weight = replace(signed.weights, sha256=sha256(weights(666.0)))
    altered = replace(signed, files=(weight,))
    server.blobs[altered.digest] = altered.encode()
    server.assign(DEVICE, altered, rollout="r-000000000002")
    refuse_in_the_end(device, altered, FailureCode.UNTRUSTED)


def test_a12__version_revoked_by_its_pipeline__can_no_longer_be_installed(device: Rig) -> None:
    server = device.server
    revoked = server.push(MODEL, "2", weights(2.0))
    server.revoke(MODEL, "2")
    server.assign(DEVICE, revoked, rollout="r-000000000002")
    refuse_in_the_end(device, revoked, FailureCode.UNTRUSTED)


# ---------------------------------------------------------------- A4: the whole server is the attacker's


def test_a4__model_role_forged_with_online_keys__refused(device: Rig) -> None:
    server = device.server
    forged = server.push(MODEL, "2", weights(666.0), signer="snapshot")
    server.assign(DEVICE, forged, rollout="r-000000000002")
    refuse_in_the_end(device, forged, FailureCode.UNTRUSTED)


def test_a4__delegation_rewritten_to_the_attackers_key__refused(device: Rig) -> None:
    server = device.server
    server.keys["evil"] = key()
    evil = repository.with_model(
        server.targets, model=MODEL, keys=[server.keys["evil"].public_key], threshold=1, now=server.now()
    )
    server.targets = evil.signed
    server.metadata[f"{evil.signed.version}.targets.json"] = repository.signed(evil, [server.keys["timestamp"]])
    forged = server.push(MODEL, "2", weights(666.0), signer="evil")
    server.assign(DEVICE, forged, rollout="r-000000000002")
    refuse_in_the_end(device, forged, FailureCode.UNTRUSTED)


def test_a6__another_models_key_signs_our_path__not_found(device: Rig) -> None:
    server = device.server
    server.create_model("speech.words")
    stray = replace(device.server.push(MODEL, "2", weights(2.0)), version="7")
    server.blobs[stray.digest] = stray.encode()
    path = f"models/{MODEL}/7/{stray.variant.slug}.json"
    role = repository.with_targets(
        server.roles["speech.words"],
        [NamedTarget(path, len(stray.encode()), stray.digest)],
        profile=Profile.DEV,
        now=server.now(),
    )
    server.set_role("speech.words", role)
    server.assign(DEVICE, stray, rollout="r-000000000002")
    refuse_in_the_end(device, stray, FailureCode.UNTRUSTED)


# ---------------------------------------------------------------- A9, A13, A22: old bundles again


def test_a9__older_bundle_for_the_same_nonce__refused(device: Rig) -> None:
    older, newer = honest(device), honest(device)
    device.trust.accept(newer, NONCE)
    with pytest.raises(MetadataError):
        device.trust.accept(older, NONCE)
    unharmed(device)


def test_a9__recorded_bundle_for_a_new_question__refused(device: Rig) -> None:
    recorded = honest(device)
    device.trust.accept(recorded, NONCE)
    with pytest.raises(BindingError, match="nonce"):
        device.trust.accept(replace(recorded, nonce="cd" * 16), "cd" * 16)
    unharmed(device)


@pytest.mark.parametrize("lost", ["truncated", "deleted"])
def test_a13__replay_after_metadata_was_lost_in_a_power_cut__refused(device: Rig, lost: str) -> None:
    older, newer = honest(device), honest(device)
    device.trust.accept(newer, NONCE)
    for path in (device.state / "trust" / "director").glob("*.json"):
        if not path.is_symlink():
            if lost == "truncated":
                path.write_bytes(b"")
            else:
                path.unlink()
    with pytest.raises(ReplayError):
        device.trust.accept(older, NONCE)
    unharmed(device)


def test_a13__image_repository_rolled_back_after_files_were_lost__refused(device: Rig) -> None:
    server = device.server
    before = dict(server.metadata)
    second = server.push(MODEL, "2", weights(2.0))
    server.assign(DEVICE, second, rollout="r-000000000002")
    device.poke()
    device.run_to(UpdateState.COMMITTED, second)
    third = server.push(MODEL, "3", weights(3.0))
    server.metadata = before
    for path in (device.state / "trust" / "image").glob("*.json"):
        if not path.is_symlink():
            path.write_bytes(b"")
    server.assign(DEVICE, third, rollout="r-000000000003")
    target = device.trust.accept(honest(device), NONCE).targets[MODEL]
    with pytest.raises(ReplayError):
        device.trust.authorise(target)


def test_a22__same_bundle_delivered_twice__idempotent(device: Rig) -> None:
    bundle = honest(device)
    assert device.trust.accept(bundle, NONCE) == device.trust.accept(bundle, NONCE)


# ---------------------------------------------------------------- A14, A15: time


def test_a14__expired_director_metadata__refused(device: Rig) -> None:
    server = device.server
    targets, blobs = server.targets_for(DEVICE, check_of(device))
    stale = server.bundle(targets, now=datetime.now(tz=UTC) - timedelta(days=30))
    with pytest.raises(MetadataError, match="xpired"):
        device.trust.accept(BundleMessage(NONCE, stale, server.tickets(blobs)), NONCE)
    unharmed(device)


def test_a15__clock_before_the_last_signed_time__nothing_is_accepted(device: Rig) -> None:
    honest_now = device.clock.now()
    device.clock.set(datetime(1972, 1, 1, tzinfo=UTC))
    with pytest.raises(ClockError):
        device.trust.accept(honest(device), NONCE)
    assert device.infer(1.0) == 2.0, "a wrong clock stops updates, never inference"
    device.clock.set(honest_now)
    unharmed(device)


def test_a15__clock_set_ahead_once__floor_does_not_follow_it(device: Rig) -> None:
    """A server whose clock is years ahead must not lock devices out by a floor in the future."""
    server = device.server
    targets, blobs = server.targets_for(DEVICE, check_of(device))
    ahead = int((device.clock.now() + timedelta(days=4_000)).timestamp())
    custom = {**targets[0].custom, "issued_at": ahead}
    bundle = server.bundle([replace(targets[0], custom=custom), *targets[1:]])
    device.trust.accept(BundleMessage(NONCE, bundle, server.tickets(blobs)), NONCE)
    assert device.trust.floor() <= device.clock.now()
    unharmed(device)


# ---------------------------------------------------------------- A21: another device's bundle


def test_a21__foreign_bundle_with_our_nonce__refused_and_leaves_nothing(device: Rig) -> None:
    server = device.server
    server.told["dev-2", MODEL] = server.told[DEVICE, MODEL]
    server.director_version += 1_000_000
    foreign = server.answer("dev-2", check_of(device))
    server.director_version -= 1_000_000
    with pytest.raises(BindingError):
        device.trust.accept(foreign, NONCE)
    unharmed(device)


def test_a21__foreign_bundle_with_broken_targets__leaves_nothing_either(device: Rig) -> None:
    """The half of a foreign bundle that ngclient accepts must not become a floor for our own."""
    server = device.server
    server.told["dev-2", MODEL] = server.told[DEVICE, MODEL]
    server.director_version += 1_000_000
    foreign = server.answer("dev-2", check_of(device))
    server.director_version -= 1_000_000
    name = next(name for name in foreign.director if name.endswith("targets.json"))
    with pytest.raises(MetadataError):
        device.trust.accept(replace(foreign, director={**foreign.director, name: "{}"}), NONCE)
    unharmed(device)


# ---------------------------------------------------------------- A23, A24: too much, too slowly


def test_a23__message_beyond_the_limit__dropped(device: Rig) -> None:
    device.broker.deliver(topics.down(DEVICE, Down.BUNDLE), b"x" * (MAX_MESSAGE_BYTES + 1))
    device.broker.deliver(topics.down(DEVICE, Down.ACK), b"{" * 20_000)
    device.settle()
    unharmed(device)


def test_a23__metadata_longer_than_its_role_may_be__refused(device: Rig) -> None:
    bundle = honest(device)
    with pytest.raises(MetadataError):
        device.trust.accept(replace(bundle, director={**bundle.director, "timestamp.json": " " * 100_000}), NONCE)
    unharmed(device)


def test_a23__endless_file__cut_off_at_its_signed_length(device: Rig) -> None:
    server = device.server
    second = server.push(MODEL, "2", weights(2.0))
    server.faults.endless = True
    server.assign(DEVICE, second, rollout="r-000000000002")
    refuse_in_the_end(device, second, FailureCode.DIGEST_MISMATCH)


def test_a24__peer_that_drips__given_up(tmp_path: Path) -> None:
    with UpdateServerSimulator().serving() as server:
        manifest = server.push(MODEL, "1", weights(1.0))
        server.faults.drips_after = 20
        pace = Pace(min_bytes=1_000, window_s=0.4)
        downloads = HttpDownloads(connection_pool(), SystemClock(), server.url, pace)
        ticket = server.tickets([manifest.weights.sha256])[manifest.weights.sha256]
        transfer = Transfer(ticket, manifest.weights.sha256, manifest.weights.length)
        with pytest.raises(StalledError, match="expected at least"):
            downloads.fetch(transfer, tmp_path / "part", lambda: False)
        assert 0 < (tmp_path / "part").stat().st_size < manifest.weights.length


# ---------------------------------------------------------------- A25, A26: the wrong software, correctly signed


@pytest.mark.parametrize(
    ("variant", "requirements"),
    [
        (VariantName("fake", "fp32", "coral"), Requirements()),
        (VariantName("tflite", "fp32", "any"), Requirements()),
        (VariantName("fake", "fp32", "any"), Requirements(opset=99)),
        (VariantName("fake", "fp32", "any"), Requirements(ram_bytes=2**40)),
    ],
    ids=["hardware", "runtime", "opset", "memory"],
)
def test_a25__variant_for_other_hardware__refused(
    device: Rig, variant: VariantName, requirements: Requirements
) -> None:
    server = device.server
    other = server.push(MODEL, "2", weights(2.0), variant=variant, requirements=requirements)
    server.assign(DEVICE, other, rollout="r-000000000002")
    refuse_in_the_end(device, other, FailureCode.INCOMPATIBLE)


def test_a25__manifest_of_another_model_under_our_path__refused(device: Rig) -> None:
    """Even the pipeline cannot put a manifest into the wrong slot by mistake."""
    server = device.server
    stray = replace(server.push(MODEL, "2", weights(2.0)), model="speech.words")
    server.blobs[stray.digest] = stray.encode()
    path = f"models/{MODEL}/5/{stray.variant.slug}.json"
    role = repository.with_targets(
        server.roles[MODEL],
        [NamedTarget(path, len(stray.encode()), stray.digest)],
        profile=Profile.DEV,
        now=server.now(),
    )
    server.set_role(MODEL, role)
    targets, blobs = server.targets_for(DEVICE, check_of(device))
    honest_assignment = next(target for target in targets if target.path.startswith("models/"))
    custom = {**honest_assignment.custom, "version": "5", "rollout": "r-000000000002"}
    swapped = NamedTarget(path, len(stray.encode()), stray.digest, custom)
    blobs += [stray.digest, stray.weights.sha256]
    real = server.targets_for
    server.targets_for = lambda device_id, check: (  # type: ignore[method-assign]
        [real(device_id, check)[0][0], swapped],
        blobs,
    )
    device.poke()
    device.run_to(UpdateState.ROLLED_BACK)
    assert server.reports(DEVICE)[-1].failure is FailureCode.INCOMPATIBLE
    assert device.infer(1.0) == 2.0


# ---------------------------------------------------------------- A27: hostile deltas


def bomb(length: int) -> bytes:
    """A small patch that announces `length` bytes and inflates to more than the child may have."""
    control = bz2.compress(struct.pack("<qqq", 0, BOMB_MIB * 2**20, 0))
    compressor = bz2.BZ2Compressor()
    extra = b"".join(compressor.compress(b"\0" * 2**20) for _ in range(BOMB_MIB)) + compressor.flush()
    diff = bz2.compress(b"")
    return b"BSDIFF40" + struct.pack("<qqq", len(control), len(diff), length) + control + diff + extra


def diff(old: bytes, new: bytes) -> bytes:
    return bytes(bsdiff4.diff(old, new))


HOSTILE: dict[str, Callable[[bytes, bytes], bytes]] = {
    "corrupt": lambda old, new: diff(old, new)[:60] + bytes(byte ^ 0xFF for byte in diff(old, new)[60:]),
    "truncated": lambda old, new: diff(old, new)[: len(diff(old, new)) // 2],
    "other output": lambda old, new: diff(old, new[:-1] + b"?"),
    "wrong base": lambda old, new: diff(new, old),
    "bomb": lambda _, new: bomb(len(new)),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a27__hostile_patch_signed_by_the_director__full_file_instead(device: Rig, attack: str) -> None:
    server = device.server
    first = device.slots.open(MODEL, device.current).manifest
    second = server.push(MODEL, "2", weights(2.0, size=len(weights(0.0)) - 100))
    old, new = (server.blobs[manifest.weights.sha256] for manifest in (first, second))
    patch = HOSTILE[attack](old, new)
    server.offer_patch(first.weights.sha256, second.weights.sha256, patch)
    device.unplug()
    device.real_patcher = True
    device.boot()
    device.start()
    server.assign(DEVICE, second, rollout="r-000000000002")
    device.poke()
    device.run_to(UpdateState.COMMITTED, second)
    assert server.reports(DEVICE)[-1].transport is Transport.FULL
    assert device.infer(1.0) == 3.0


# ---------------------------------------------------------------- A28: swapped between check and use


def test_a28__file_of_a_slot_replaced__never_loaded(device: Rig) -> None:
    """What is hashed is what is loaded: both happen on the same bytes in memory."""
    file = device.state / "models" / MODEL / device.current / "model.bin"
    file.chmod(0o600)
    file.write_bytes(weights(666.0))
    device.unplug()
    device.boot()
    device.broker.reachable = False
    device.start()
    device.settle()
    with pytest.raises(NotReadyError):
        device.infer(1.0)
    device.broker.reachable = True
    device.broker.connect()
    device.run_to(UpdateState.COMMITTED)
    assert device.infer(1.0) == 2.0, "the same version was fetched again"


def test_a28__staged_file_replaced_before_it_becomes_a_slot__refused(device: Rig) -> None:
    server = device.server
    second = server.push(MODEL, "2", weights(2.0))
    publish = device.slots.publish

    def swapped(model: str, manifest: Manifest) -> None:
        (device.slots.staging(model, manifest.digest) / "model.bin").write_bytes(weights(666.0))
        publish(model, manifest)

    device.slots.publish = swapped  # type: ignore[method-assign]
    server.assign(DEVICE, second, rollout="r-000000000002")
    refuse_in_the_end(device, second, FailureCode.DIGEST_MISMATCH)


def test_a28__directories__only_this_user_may_enter(device: Rig) -> None:
    for path in (device.state / "models", device.state / "trust"):
        assert path.stat().st_mode & 0o077 == 0


def test_a30__file_that_no_manifest_lists__not_in_the_slot(device: Rig) -> None:
    server = device.server
    second = server.push(MODEL, "2", weights(2.0))
    (device.slots.staging(MODEL, second.digest) / "extra.py").write_bytes(b"print('hello')")
    server.assign(DEVICE, second, rollout="r-000000000002")
    device.poke()
    device.run_to(UpdateState.COMMITTED, second)
    slot = device.state / "models" / MODEL / second.digest
    assert {path.name for path in slot.iterdir()} == {".manifest.json", "model.bin"}


# ---------------------------------------------------------------- A31: nothing to check against


@pytest.mark.parametrize("missing", ["device_ca_pem", "image_root", "director_root"])
def test_a31__anchor_missing__fails_closed(missing: str, tmp_path: Path) -> None:
    whole = {"v": 1, "device_ca_pem": "pem", "image_root": "{}", "director_root": "{}"}
    for broken in ({**whole, missing: ""}, {name: value for name, value in whole.items() if name != missing}):
        with pytest.raises(ConfigError):
            Anchors.parse(json.dumps(broken).encode())
    with pytest.raises(ConfigError):
        load_anchors(IdentityPaths(tmp_path))


def test_a31__root_is_not_a_root__nothing_is_accepted(device: Rig) -> None:
    device.server.director_root = b"{}"
    device.unplug()
    device.boot()
    with pytest.raises(MetadataError):
        device.trust.accept(honest(device), NONCE)
