"""Updates in place: what they give up, what they never give up, and that every cut ends in the new file."""

import shutil
from pathlib import Path

import pytest

from device_client.agent.pieces import Piece, Way
from device_client.core.deployment import Patch
from device_client.core.errors import NotReadyError
from device_client.wire.bundles import BundleFile, FileRole
from device_client.wire.delta import Codec
from device_client.wire.states import FailureCode, Transport, UpdateState
from tests.device.rig import DEVICE, MODEL, Mains, PowerCutError, Rig, golden, retrained
from tests.fakes.update_server import UpdateServerSimulator, sha256

FILE_BYTES = len(retrained(1.0))
TIGHT = 2 * FILE_BYTES - 4_096  # the installed file and a patch fit, two files do not


class Fleet:
    """A server with two versions and a patch between them, and devices that run the first."""

    def __init__(self, server: UpdateServerSimulator, directory: Path, golden_bias: float = 2.0) -> None:
        self.server = server
        self.directory = directory
        self.one = server.push(MODEL, "1", retrained(1.0), extra={"golden.json": golden(1.0)})
        self.two = server.push(MODEL, "2", retrained(2.0), extra={"golden.json": golden(golden_bias)})
        self.patch = server.build_delta(self.one, self.two, Codec.TENSOR1)
        rig = Rig(server, directory / "prepared")
        server.assign(DEVICE, self.one, rollout="r-000000000001")
        rig.start()
        rig.run_to(UpdateState.COMMITTED, self.one)
        rig.unplug()
        self.server.states.clear()

    def device(self, number: int = 0, *, in_place: bool = True, mains: Mains | None = None, child: bool = False) -> Rig:
        state = self.directory / f"device-{number}"
        shutil.copytree(self.directory / "prepared", state, symlinks=True)
        rig = Rig(
            self.server,
            state,
            mains=mains,
            codecs=(Codec.TENSOR1,),
            in_place=in_place,
            disk_bytes=TIGHT,
            real_patcher=child,
        )
        rig.skip_nonces((number + 1) * 1_000)
        return rig

    def assign(self, rig: Rig) -> None:
        self.server.assign(DEVICE, self.two, rollout="r-000000000002")
        rig.start()


@pytest.fixture
def fleet(server: UpdateServerSimulator, state_dir: Path) -> Fleet:
    return Fleet(server, state_dir)


@pytest.mark.parametrize(
    ("mebibytes", "beside"), [(1_000, 8 << 20), (8, 1 << 20), (0, 16 << 10)], ids=["large", "small", "tiny"]
)
def test_in_place__room_that_is_planned__the_patch_the_growth_and_a_batch(
    tmp_path: Path, mebibytes: int, beside: int
) -> None:
    new = BundleFile("model.bin", FileRole.WEIGHTS, "0" * 64, (mebibytes << 20) + 5)
    patch = Patch("1" * 64, "0" * 64, Codec.TENSOR1.value, "2" * 64, 1_000)
    piece = Piece(new, patch, Way.IN_PLACE, tmp_path)
    assert piece.needed_bytes(old_bytes=mebibytes << 20, beside_bytes=7) == 1_000 + 5 + beside


def fetched(server: UpdateServerSimulator, digest: str) -> int:
    return sum(path.endswith(digest) for path, _ in server.requests)


@pytest.mark.parametrize("child", [False, True], ids=["inline", "child"])
def test_in_place__allowed_and_no_room_for_two__the_old_file_becomes_the_new_one(fleet: Fleet, *, child: bool) -> None:
    rig = fleet.device(child=child)
    fleet.assign(rig)
    rig.run_to(UpdateState.COMMITTED, fleet.two)
    assert rig.infer(1.0) == 3.0
    last = fleet.server.reports(DEVICE)[-1]
    assert (last.transport, last.codec, last.fallbacks) == (Transport.DELTA, "tensor1", ())
    assert fetched(fleet.server, fleet.two.weights.sha256) == 0
    assert rig.slots.holds(MODEL, fleet.one.digest) is None
    slot = rig.state / "models" / MODEL / fleet.two.digest
    assert {path.name for path in slot.iterdir()} == {".manifest.json", "model.bin", "golden.json"}
    rig.unplug()


def test_in_place__not_allowed__no_space_and_the_old_version_stays(fleet: Fleet) -> None:
    rig = fleet.device(in_place=False)
    fleet.assign(rig)
    rig.run_to(UpdateState.ROLLED_BACK, fleet.two)
    last = fleet.server.reports(DEVICE)[-1]
    assert (last.failure, last.active_digest) == (FailureCode.PREFLIGHT, fleet.one.digest)
    assert rig.current == fleet.one.digest
    rig.unplug()


def test_in_place__room_for_two__never_used(fleet: Fleet) -> None:
    rig = fleet.device()
    rig.slots._disk_bytes = 10 * FILE_BYTES
    fleet.assign(rig)
    rig.run_to(UpdateState.COMMITTED, fleet.two)
    assert rig.slots.links(MODEL).previous == fleet.one.digest
    rig.unplug()


def test_in_place__patch_does_not_fit_the_file__refused_before_anything_is_given_up(fleet: Fleet) -> None:
    other = fleet.server.push(MODEL, "3", retrained(3.0))
    wrong = fleet.server.build_delta(other, fleet.two, Codec.TENSOR1)
    fleet.server.offer_patch(fleet.one.weights.sha256, fleet.two.weights.sha256, wrong, Codec.TENSOR1)
    rig = fleet.device()
    fleet.assign(rig)
    rig.run_to(UpdateState.ROLLED_BACK, fleet.two)
    assert fleet.server.reports(DEVICE)[-1].fallbacks == ("tensor1",)
    assert (rig.state / "models" / MODEL / fleet.one.digest / "model.bin").read_bytes() == retrained(1.0)
    assert (rig.current, rig.infer(1.0)) == (fleet.one.digest, 2.0)
    rig.unplug()


def test_in_place__new_version_fails_its_self_test__the_old_one_serves_from_memory(
    server: UpdateServerSimulator, state_dir: Path
) -> None:
    fleet = Fleet(server, state_dir, golden_bias=9.0)
    rig = fleet.device()
    fleet.assign(rig)
    rig.run_to(UpdateState.ROLLED_BACK, fleet.two)
    assert rig.infer(1.0) == 2.0
    last = server.reports(DEVICE)[-1]
    assert (last.failure, last.active_digest) == (FailureCode.SELF_TEST, fleet.one.digest)
    server.assign(DEVICE, fleet.one, rollout="")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, fleet.one)
    assert (rig.current, rig.infer(1.0)) == (fleet.one.digest, 2.0), "the way back is a full download"
    rig.unplug()


def test_in_place__cut_at_every_boundary__ends_with_the_new_file(fleet: Fleet) -> None:
    mains = Mains()
    rig = fleet.device(0, mains=mains)
    fleet.assign(rig)
    rig.run_to(UpdateState.COMMITTED, fleet.two)
    rig.unplug()
    names = mains.crossed
    assert {"slots.give_up: before", "slots.give_up: after", "patcher.apply_in_place: after"} <= set(names)
    first = names.index("downloads.fetch: before")
    last = names.index("slots.publish: after")
    for number in range(first, last + 2):
        _cut_once(fleet, number)


def _cut(fleet: Fleet, number: int) -> Rig:
    """A device whose power was cut at this boundary of the update, switched off."""
    mains = Mains()
    mains.cut_at = number
    rig = fleet.device(number + 1, mains=mains)
    try:
        fleet.assign(rig)
        rig.run_to(UpdateState.COMMITTED, fleet.two)
    except PowerCutError:
        return rig
    raise AssertionError(f"nothing was cut at boundary {number}")


def _cut_once(fleet: Fleet, number: int) -> None:
    fleet.server.states.clear()
    fleet.server.told.clear()
    fleet.server.requests.clear()
    rig = _cut(fleet, number)
    rig.restart()
    try:
        assert rig.infer(1.0) in {2.0, 3.0}
    except NotReadyError:
        staging = rig.state / "models" / MODEL / f".staging-{fleet.two.digest}"
        places = (".in-place.model.bin/given-up", ".in-place.model.bin/output", "model.bin")
        assert any((staging / place).exists() for place in places) or rig.slots.holds(MODEL, fleet.two.digest)
    rig.run_to(UpdateState.COMMITTED, fleet.two)
    assert rig.infer(1.0) == 3.0
    assert fetched(fleet.server, sha256(fleet.patch)) <= 2
    assert fetched(fleet.server, fleet.two.weights.sha256) == 0, (
        f"fetched in full after {rig.mains.crossed[: number + 1][-3:]}"
    )
    assert fleet.server.reports(DEVICE)[-1].active_digest == rig.current == fleet.two.digest
    rig.unplug()
    shutil.rmtree(rig.state)


def test_in_place__halted_once_it_has_begun__a_later_assignment_installs_in_full_or_goes_on(fleet: Fleet) -> None:
    mains = Mains()
    rig = fleet.device(0, mains=mains)
    fleet.assign(rig)
    rig.run_to(UpdateState.COMMITTED, fleet.two)
    rig.unplug()
    fleet.server.told.clear()
    rig = _cut(fleet, mains.crossed.index("slots.give_up: after"))
    fleet.server.withdraw(DEVICE, MODEL, because="halted")
    rig.restart()
    rig.run_until(lambda: rig.deployment.state in {UpdateState.COMMITTED, UpdateState.HALTED})
    fleet.server.assign(DEVICE, fleet.two, rollout="r-000000000003")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, fleet.two)
    assert rig.infer(1.0) == 3.0
    rig.unplug()
