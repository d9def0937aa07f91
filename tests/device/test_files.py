"""Slots, downloads and patches on a real file system, against their ports' words."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_client.adapters import durable
from device_client.adapters.clock import SystemClock
from device_client.adapters.http import HttpDownloads, TokenBucket
from device_client.adapters.slots import FileSlots
from device_client.core.errors import (
    CancelledError,
    DigestMismatchError,
    GoneError,
    SlotDamagedError,
    TicketError,
    TransferError,
)
from device_client.ports import Links, Transfer, Transferred
from device_client.wire.bundles import BundleFile, FileRole, Manifest
from device_client.wire.names import VariantName
from tests.device.rig import MODEL, HandClock, connection_pool
from tests.fakes.update_server import UpdateServerSimulator, sha256

BODY = os.urandom(300_000)


def manifest(version: str, body: bytes = BODY) -> Manifest:
    file = BundleFile("model.bin", FileRole.WEIGHTS, sha256(body), len(body))
    return Manifest(MODEL, version, VariantName("fake", "fp32", "any"), "fake", (file,))


def publish(slots: FileSlots, version: str, body: bytes = BODY) -> Manifest:
    made = manifest(version, body)
    (slots.staging(MODEL, made.digest) / "model.bin").write_bytes(body)
    slots.publish(MODEL, made)
    return made


# ---------------------------------------------------------------- slots


@pytest.fixture
def slots(tmp_path: Path) -> FileSlots:
    return FileSlots(tmp_path / "models")


def test_slots__published__read_back_and_found_by_content(slots: FileSlots) -> None:
    made = publish(slots, "1")
    opened = slots.open(MODEL, made.digest)
    assert (opened.manifest, opened.files["model.bin"]) == (made, BODY)
    assert slots.holds(MODEL, made.digest) == made
    found = slots.blob(MODEL, sha256(BODY))
    assert found is not None
    assert found.read_bytes() == BODY
    slots.publish(MODEL, made)  # a repetition after a power cut changes nothing
    assert slots.holds(MODEL, made.digest) == made


def test_slots__staged_bytes_are_wrong__no_slot(slots: FileSlots) -> None:
    made = manifest("1")
    (slots.staging(MODEL, made.digest) / "model.bin").write_bytes(BODY[:-1] + b"?")
    with pytest.raises(DigestMismatchError):
        slots.publish(MODEL, made)
    assert slots.holds(MODEL, made.digest) is None
    (slots.staging(MODEL, made.digest) / "model.bin").unlink()
    with pytest.raises(DigestMismatchError):
        slots.publish(MODEL, made)


@pytest.mark.parametrize("how", ["altered", "cut", "missing", "manifest"])
def test_slots__rotten__noticed_when_opened(slots: FileSlots, tmp_path: Path, how: str) -> None:
    made = publish(slots, "1")
    slot = tmp_path / "models" / MODEL / made.digest
    for name in ("model.bin", ".manifest.json"):
        (slot / name).chmod(0o600)
    if how == "altered":
        (slot / "model.bin").write_bytes(BODY[:-1] + b"?")
    elif how == "cut":
        (slot / "model.bin").write_bytes(BODY[:-1])
    elif how == "missing":
        (slot / "model.bin").unlink()
    else:
        (slot / ".manifest.json").write_bytes(manifest("2").encode())
    with pytest.raises(SlotDamagedError):
        slots.open(MODEL, made.digest)


def test_slots__pointed__links_and_collection_follow(slots: FileSlots, tmp_path: Path) -> None:
    one, two, three = (publish(slots, version).digest for version in ("1", "2", "3"))
    assert slots.links(MODEL) == Links()
    slots.point(MODEL, current=one, previous="")
    slots.point(MODEL, current=two, previous=one)
    slots.staging(MODEL, "f" * 64)
    slots.collect(MODEL, frozenset())
    assert slots.links(MODEL) == Links(two, one, "")
    assert slots.holds(MODEL, three) is None
    assert sorted(path.name for path in (tmp_path / "models" / MODEL).iterdir()) == sorted(
        ["current", "previous", one, two]
    )
    slots.point(MODEL, current="", previous="")
    assert slots.links(MODEL) == Links()


def test_slots__link_to_nowhere_or_outside__as_if_absent(slots: FileSlots, tmp_path: Path) -> None:
    made = publish(slots, "1")
    folder = tmp_path / "models" / MODEL
    (folder / "current").symlink_to("../../../etc")
    (folder / "previous").symlink_to("e" * 64)
    assert slots.links(MODEL) == Links()
    slots.point(MODEL, current=made.digest, previous="")
    assert slots.links(MODEL).current == made.digest


def test_lock__held__second_is_told_so(tmp_path: Path) -> None:
    with durable.exclusively(tmp_path / "lock") as first, durable.exclusively(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with durable.exclusively(tmp_path / "lock") as third:
        assert third


# ---------------------------------------------------------------- downloads


@pytest.fixture
def server() -> Iterator[UpdateServerSimulator]:
    with UpdateServerSimulator().serving() as simulator:
        simulator.blobs[sha256(BODY)] = BODY
        yield simulator


def transfer(**changes: object) -> Transfer:
    url = f"/device/v1/blobs/{sha256(BODY)}?ticket=good"
    return Transfer(**{"url": url, "sha256": sha256(BODY), "length": len(BODY), **changes})  # type: ignore[arg-type]


def downloads(server: UpdateServerSimulator) -> HttpDownloads:
    return HttpDownloads(connection_pool(), SystemClock(), server.url)


def test_fetch__nothing_there__whole_file(server: UpdateServerSimulator, tmp_path: Path) -> None:
    part = tmp_path / "part"
    assert downloads(server).fetch(transfer(), part, lambda: False) == Transferred(len(BODY), 0)
    assert part.read_bytes() == BODY
    assert downloads(server).fetch(transfer(), part, lambda: False) == Transferred(0, len(BODY))


def test_fetch__beginning_there__only_the_rest(server: UpdateServerSimulator, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(BODY[:100_000])
    assert downloads(server).fetch(transfer(), part, lambda: False) == Transferred(200_000, 100_000)
    assert part.read_bytes() == BODY
    assert server.requests[-1][1] == "bytes=100000-"


def test_fetch__beginning_torn_by_a_power_cut__once_more_from_nothing(
    server: UpdateServerSimulator, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"\0" * 100_000)
    done = downloads(server).fetch(transfer(), part, lambda: False)
    assert done == Transferred(200_000 + len(BODY), 0)
    assert part.read_bytes() == BODY


def test_fetch__part_longer_than_the_file__thrown_away(server: UpdateServerSimulator, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(BODY + b"more")
    assert downloads(server).fetch(transfer(), part, lambda: False) == Transferred(len(BODY), 0)


def test_fetch__other_bytes__refused_and_removed(server: UpdateServerSimulator, tmp_path: Path) -> None:
    server.faults.altered[sha256(BODY)] = BODY[:-1] + b"?"
    with pytest.raises(DigestMismatchError):
        downloads(server).fetch(transfer(), tmp_path / "part", lambda: False)
    assert not (tmp_path / "part").exists()


def test_fetch__other_length_announced__refused_before_the_first_byte(
    server: UpdateServerSimulator, tmp_path: Path
) -> None:
    server.faults.altered[sha256(BODY)] = BODY + b"x"
    with pytest.raises(DigestMismatchError, match="announced"):
        downloads(server).fetch(transfer(), tmp_path / "part", lambda: False)
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize(("status", "error"), [(403, TicketError), (404, GoneError), (500, TransferError)])
def test_fetch__refused__kind_of_error_says_what_to_do(
    server: UpdateServerSimulator, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    server.faults.status = status
    with pytest.raises(error) as refusal:
        downloads(server).fetch(transfer(), tmp_path / "part", lambda: False)
    assert type(refusal.value) is error


def test_fetch__nobody_answers__transfer_error(server: UpdateServerSimulator, tmp_path: Path) -> None:
    with pytest.raises(TransferError):
        downloads(server).fetch(transfer(url="http://127.0.0.1:1/x"), tmp_path / "part", lambda: False)
    with pytest.raises(TicketError):
        downloads(server).fetch(transfer(url="file:///etc/passwd"), tmp_path / "part", lambda: False)


def test_fetch__cancelled__part_is_kept(server: UpdateServerSimulator, tmp_path: Path) -> None:
    server.faults.drips_after = 100_000
    part = tmp_path / "part"
    with pytest.raises(CancelledError):
        downloads(server).fetch(transfer(), part, lambda: part.exists() and part.stat().st_size > 0)
    held = part.read_bytes()
    assert 0 < len(held) < len(BODY)
    assert BODY.startswith(held)


def test_token_bucket__limit__spends_no_faster() -> None:
    clock = HandClock()
    bucket = TokenBucket(clock, 1_000)
    began = clock.monotonic()
    for _ in range(50):
        bucket.spend(100, clock.sleep)
    assert clock.monotonic() - began == pytest.approx(5.0, abs=0.2)
    assert bucket.chunk_bytes == 1_024
