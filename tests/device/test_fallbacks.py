"""Patches that do not work: the next one is tried, then the full file, and the server hears of each."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from device_client.core.errors import KilledError
from device_client.ports import PatchJob
from device_client.wire.bundles import Manifest
from device_client.wire.delta import Codec
from device_client.wire.states import Transport, UpdateState
from device_client.wire.tensor1.format import MIN_BLOCK_BYTES
from tests.device.rig import DEVICE, MODEL, InlinePatcher, PowerCutError, Rig, retrained
from tests.fakes.update_server import UpdateServerSimulator, sha256

Versions = tuple[Manifest, Manifest]


@pytest.fixture
def versions(rig: Rig, server: UpdateServerSimulator) -> Versions:
    """The first is installed, the second pushed."""
    first, second = (server.push(MODEL, label, retrained(float(label))) for label in ("1", "2"))
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    return first, second


def update(rig: Rig, server: UpdateServerSimulator, versions: Versions) -> tuple[Transport, str, tuple[str, ...]]:
    """Have the device go to the second version; what it says of the way there."""
    server.assign(DEVICE, versions[1], rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, versions[1])
    assert rig.infer(1.0) == 3.0
    last = server.reports(DEVICE)[-1]
    return last.transport, last.codec, last.fallbacks


def take_both(rig: Rig) -> None:
    """The device can apply both codecs from its next start on."""
    codecs = (Codec.TENSOR1.value, Codec.BSDIFF4.value)
    rig.profile = replace(rig.profile, capabilities=replace(rig.profile.capabilities, codecs=codecs))
    rig.restart()
    rig.settle()


def fetched(server: UpdateServerSimulator, digest: str) -> int:
    return sum(path.endswith(digest) for path, _ in server.requests)


def test_patch__applied__its_codec_is_reported(rig: Rig, server: UpdateServerSimulator, versions: Versions) -> None:
    server.build_delta(*versions)
    assert update(rig, server, versions) == (Transport.DELTA, "bsdiff4", ())


def test_patch__fails__the_next_one_is_taken(rig: Rig, server: UpdateServerSimulator, versions: Versions) -> None:
    take_both(rig)
    old, new = (manifest.weights.sha256 for manifest in versions)
    server.build_delta(*versions)
    server.offer_patch(old, new, b"tensor1\nand no more", Codec.TENSOR1)
    assert update(rig, server, versions) == (Transport.DELTA, "bsdiff4", ("tensor1",))


def test_patches__all_fail__full_file_and_each_is_tried_once(
    rig: Rig, server: UpdateServerSimulator, versions: Versions
) -> None:
    take_both(rig)
    old, new = (manifest.weights.sha256 for manifest in versions)
    bad = {Codec.TENSOR1: b"tensor1\nand no more", Codec.BSDIFF4: b"BSDIFF40 but not really a patch"}
    for codec, patch in bad.items():
        server.offer_patch(old, new, patch, codec)
    server.faults.cut_after_bytes, server.faults.cuts_left = 4_000, 1  # of the full file: the patches are shorter
    server.assign(DEVICE, versions[1], rollout="r-000000000002")
    rig.clock.asleep = rig.cut_power  # it waits because the full file was cut
    with pytest.raises(PowerCutError):
        rig.poke()
    rig.clock.asleep = rig.clock.advance
    rig.restart()
    assert update(rig, server, versions) == (Transport.FULL, "", ("tensor1", "bsdiff4"))
    assert {fetched(server, sha256(patch)) for patch in bad.values()} == {1}


def test_patch__of_a_codec_that_was_not_advertised__not_even_fetched(
    rig: Rig, server: UpdateServerSimulator, versions: Versions
) -> None:
    patch = server.build_delta(*versions, codec=Codec.TENSOR1_PORTABLE)
    assert update(rig, server, versions) == (Transport.FULL, "", ())
    assert fetched(server, sha256(patch)) == 0


def test_patch__no_longer_in_the_store__full_file(rig: Rig, server: UpdateServerSimulator, versions: Versions) -> None:
    patch = server.build_delta(*versions)
    del server.blobs[sha256(patch)]
    assert update(rig, server, versions) == (Transport.FULL, "", ("bsdiff4",))


@pytest.mark.parametrize("there", [0, 700], ids=["nothing", "a part"])
@pytest.mark.parametrize("codec", [Codec.TENSOR1, Codec.BSDIFF4], ids=["streamed", "whole"])
def test_patch__answer_ends_early_every_time__five_attempts_then_the_full_file(
    rig: Rig, server: UpdateServerSimulator, versions: Versions, codec: Codec, there: int
) -> None:
    take_both(rig)
    patch = server.build_delta(*versions, codec=codec)
    server.faults.short[sha256(patch)] = there
    assert update(rig, server, versions) == (Transport.FULL, "", (codec.value,))
    assert fetched(server, sha256(patch)) == 6


def test_patch__answer_ends_early_once__goes_on(rig: Rig, server: UpdateServerSimulator, versions: Versions) -> None:
    patch = server.build_delta(*versions)
    server.faults.short[sha256(patch)] = 700

    def mended(seconds: float) -> None:
        server.faults.short.clear()
        rig.clock.advance(seconds)

    rig.clock.asleep = mended
    assert update(rig, server, versions) == (Transport.DELTA, "bsdiff4", ())
    assert [wanted for path, wanted in server.requests if path.endswith(sha256(patch))] == [None, "bytes=700-"]


def test_patch__ticket_has_expired__the_director_is_asked_and_the_patch_is_taken(
    rig: Rig, server: UpdateServerSimulator, versions: Versions
) -> None:
    server.build_delta(*versions)
    server.faults.status = 403
    server.assign(DEVICE, versions[1], rollout="r-000000000002")
    rig.poke()
    assert rig.deployment.state is UpdateState.DOWNLOADING
    server.faults.status = None
    assert update(rig, server, versions) == (Transport.DELTA, "bsdiff4", ())


# ---------------------------------------------------------------- patches that are applied while they come


def test_streamed_patch__connection_cut_twice__applied_and_no_block_is_fetched_twice(
    rig: Rig, server: UpdateServerSimulator, versions: Versions
) -> None:
    take_both(rig)
    patch = server.build_delta(*versions, codec=Codec.TENSOR1)
    server.faults.cut_after_bytes, server.faults.cuts_left = len(patch) // 4, 2
    assert update(rig, server, versions) == (Transport.DELTA, "tensor1", ())
    ranges = [wanted for path, wanted in server.requests if path.endswith(sha256(patch))]
    assert ranges[0] is None
    assert len(ranges) == 3
    last = server.reports(DEVICE)[-1]
    assert len(patch) <= last.bytes_received - len(versions[1].encode()) <= len(patch) + 2 * MIN_BLOCK_BYTES
    assert not list((rig.state / "models" / MODEL / versions[1].digest).glob(".stream*"))


def test_streamed_patch__altered_between_two_ranges__once_more_from_nothing(
    rig: Rig, server: UpdateServerSimulator, versions: Versions
) -> None:
    take_both(rig)
    patch = server.build_delta(*versions, codec=Codec.TENSOR1)
    server.faults.cut_after_bytes, server.faults.cuts_left = len(patch) // 2, 1

    def alter(seconds: float) -> None:
        """It waits for the network: meanwhile the store is altered, and mended once it was asked again."""
        half = len(patch) // 2
        server.faults.altered[sha256(patch)] = patch[:half] + bytes(len(patch) - half)
        rig.clock.asleep = rig.clock.advance

    rig.clock.asleep = alter
    assert update(rig, server, versions) == (Transport.FULL, "", ("tensor1",))
    ranges = [wanted for path, wanted in server.requests if path.endswith(sha256(patch))]
    assert [wanted is None for wanted in ranges] == [True, False, True]


@pytest.mark.parametrize("lie", ["longer", "shorter", "for other files"])
def test_streamed_patch__not_what_was_told__full_file(
    rig: Rig, server: UpdateServerSimulator, versions: Versions, lie: str
) -> None:
    take_both(rig)
    patch = server.build_delta(*versions, codec=Codec.TENSOR1)
    third = server.push(MODEL, "3", retrained(3.0))
    other = server.build_delta(versions[0], third, Codec.TENSOR1).ljust(len(patch), b"x")[: len(patch)]
    server.faults.altered[sha256(patch)] = {
        "longer": patch + b"x",
        "shorter": patch[:-1],
        "for other files": other,
    }[lie]
    assert update(rig, server, versions) == (Transport.FULL, "", ("tensor1",))


def test_streamed_patch__base_has_rotted__full_file(
    rig: Rig, server: UpdateServerSimulator, versions: Versions
) -> None:
    take_both(rig)
    server.build_delta(*versions, codec=Codec.TENSOR1)
    file = rig.state / "models" / MODEL / versions[0].digest / "model.bin"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    assert update(rig, server, versions) == (Transport.FULL, "", ("tensor1",))


def test_streamed_patch__in_a_child__the_same_end(rig: Rig, server: UpdateServerSimulator, versions: Versions) -> None:
    rig.real_patcher = True
    take_both(rig)
    server.build_delta(*versions, codec=Codec.TENSOR1)
    assert update(rig, server, versions) == (Transport.DELTA, "tensor1", ())


@pytest.mark.parametrize(
    ("kills", "outcome"), [(3, (Transport.DELTA, "tensor1", ())), (99, (Transport.FULL, "", ("tensor1",)))]
)
def test_streamed_patch__its_process_is_killed__tried_again_but_not_for_ever(
    rig: Rig,
    server: UpdateServerSimulator,
    versions: Versions,
    kills: int,
    outcome: tuple[Transport, str, tuple[str, ...]],
) -> None:
    take_both(rig)
    rig.installer._fetcher._patcher = MortalPatcher(kills)
    server.build_delta(*versions, codec=Codec.TENSOR1)
    assert update(rig, server, versions) == outcome


class MortalPatcher(InlinePatcher):
    """Is killed so many times before it does anything."""

    def __init__(self, kills: int) -> None:
        self._kills = kills

    def stream(self, job: PatchJob, feed: Callable[[int], Iterator[bytes]], cancelled: Callable[[], bool]) -> int:
        if self._kills:
            self._kills -= 1
            raise KilledError("killed")
        return super().stream(job, feed, cancelled)
