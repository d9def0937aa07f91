"""One device for tests: real journal, slots, downloads and TUF; a runtime of three lines, a clock that is turned by hand.

Every call of a port that changes something is a boundary at which the power can be cut: the call is then not made, or
made and not answered. `restart` is what a reboot does: all memory is gone, the state directory is not.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

from device_client.adapters import patch
from device_client.adapters.database import Database
from device_client.adapters.http import HttpDownloads, Pace, connect
from device_client.adapters.identity import IdentityPaths, StoredIdentity, make_key, make_request
from device_client.adapters.journal import SqliteJournal
from device_client.adapters.metadata import MetadataFetcher
from device_client.adapters.outbox import SqliteOutbox, life_of
from device_client.adapters.patching.files import DiskFolder, read_only, reservable
from device_client.adapters.patching.in_place import InPlaceApply
from device_client.adapters.patching.journal import patch_bytes_taken
from device_client.adapters.patching.staged import Expected, StagedApply
from device_client.adapters.patching.stream import PatchEndedError
from device_client.adapters.slots import FileSlots
from device_client.adapters.trust import TufTrust
from device_client.agent.installer import Installer
from device_client.agent.jobs import Continuation, Job
from device_client.agent.loop import Agent
from device_client.core.errors import LoadError, PatchError
from device_client.core.profile import Profile
from device_client.core.room import Room
from device_client.ports import PatchJob, Probe, Runtime, ShadowRuns
from device_client.sdk.host import ModelHost
from device_client.sdk.model import ServedModel
from device_client.wire import delta
from device_client.wire.bundles import Contract, FileRole, Manifest
from device_client.wire.delta import Codec
from device_client.wire.errors import WireError
from device_client.wire.messages import Capabilities
from device_client.wire.states import UpdateState
from tests.fakes.update_server import MemoryBroker, UpdateServerSimulator

MODEL = "vision.digits"
DEVICE = "dev-1"
PADDING = random.Random(7).randbytes(16_384)  # nothing repeats: bsdiff takes minutes over what does


@cache
def connection_pool() -> urllib3.PoolManager:
    """One for all devices: reading the system's certificates takes longer than an update."""
    return connect()


def weights(bias: float, *, kind: str = "good", size: int = len(PADDING)) -> bytes:
    """A file of the fake runtime: answers `x + bias`, or does something bad."""
    return json.dumps({"bias": bias, "kind": kind}).encode().ljust(64) + PADDING[:size]


def retrained(bias: float) -> bytes:
    """A file of the fake runtime whose numbers have all moved a little, so that a patch to it has many blocks."""
    numbers = np.random.default_rng(7).standard_normal(16_384, dtype=np.float32)
    moved = np.random.default_rng(int(bias)).standard_normal(16_384, dtype=np.float32)
    return weights(bias, size=0) + (numbers + np.float32(1e-3) * moved).tobytes()


def golden(bias: float) -> tuple[FileRole, bytes]:
    """Golden samples for a model with this bias."""
    inputs = [[0.0], [1.0], [2.0]]
    return FileRole.GOLDEN, json.dumps(
        {
            "inputs": {"x": inputs},
            "outputs": {"y": [[value + bias for value in row] for row in inputs]},
            "atol": 1e-6,
            "rtol": 0.0,
        }
    ).encode()


class FakeModel:
    def __init__(self, bias: float, kind: str) -> None:
        self.bias, self.kind = bias, kind
        self.closed = False

    def infer(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.closed:
            raise AssertionError("an inference ran on a model that was freed")
        if self.kind == "failing":
            raise RuntimeError("no answer")
        answer = np.asarray(inputs["x"], dtype=np.float32) + np.float32(self.bias)
        return {"y": np.full_like(answer, np.nan) if self.kind == "nan" else answer}

    def metadata(self) -> Mapping[str, str]:
        return {}

    def close(self) -> None:
        self.closed = True


class FakeRuntime:
    name = "fake"

    def probe(self) -> Probe:
        return Probe("1.0")

    def load(self, weights: bytes, manifest: Manifest) -> FakeModel:
        described = json.loads(weights[:64])
        if described["kind"] == "unloadable":
            raise LoadError("expected a model, got one that does not load")
        return FakeModel(described["bias"], described["kind"])


class HandClock:
    """Time that passes when a test says so. Starts at the real time, since signatures expire in it."""

    def __init__(self) -> None:
        self._now = datetime.now(tz=UTC).replace(microsecond=0)
        self._monotonic = 1_000.0
        self.asleep: Callable[[float], None] = self.advance

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        self.asleep(seconds)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def set(self, moment: datetime) -> None:
        self._now = moment


class InlineJobs:
    """Jobs run where they are submitted; their continuations still go through the agent's inbox."""

    def __init__(self, post: Callable[[Continuation], None]) -> None:
        self._post = post

    def submit(self, lane: str, job: Job) -> None:
        self._post(job())

    def stop(self, timeout_s: float) -> None: ...


class InlinePatcher:
    """`ports.Patcher` without a child process: the patches of these tests are not hostile."""

    def apply(self, job: PatchJob, patch: Path) -> None:
        job.work.mkdir(exist_ok=True)
        try:
            output = delta.apply(job.codec, job.old.read_bytes(), patch.read_bytes(), expected_bytes=job.new_bytes)
        except WireError as error:
            raise PatchError(str(error)) from error
        job.output.write_bytes(output)

    def stream(self, job: PatchJob, feed: Callable[[int], Iterator[bytes]], cancelled: Callable[[], bool]) -> int:
        apply = StagedApply(DiskFolder(job.work), _expected(job), time.monotonic)
        chunks = feed(apply.start.patch_offset)
        taken = 0

        def take(_length: int) -> bytes:
            nonlocal taken
            chunk = next(chunks, b"")
            taken += len(chunk)
            return chunk

        try:
            apply.run(take, read_only(job.old))
        except (WireError, PatchEndedError) as error:
            raise PatchError(str(error)) from error
        return taken

    def apply_in_place(
        self, job: PatchJob, patch: Path, give_up: Callable[[], None], cancelled: Callable[[], bool]
    ) -> None:
        try:
            apply = InPlaceApply(DiskFolder(job.work), _expected(job), read_only(patch), time.monotonic)
            if not apply.begun:
                apply.rehearse(reservable(job.old))
            give_up()
            apply.run(lambda: False)
        except WireError as error:
            raise PatchError(str(error)) from error

    def taken(self, work: Path) -> int:
        return patch_bytes_taken(work)


def _expected(job: PatchJob) -> Expected:
    old, new, made = (bytes.fromhex(digest) for digest in (job.old_sha256, job.new_sha256, job.patch_sha256))
    return Expected(made, job.patch_bytes, old, new, job.new_bytes)


class PowerCutError(BaseException):
    """The lights went out. No `except Exception` of the client may hold it."""


class SmallDisk(FileSlots):
    """Slots on a disk of so many bytes; None: the real one's."""

    def __init__(self, root: Path, disk_bytes: int | None) -> None:
        super().__init__(root)
        self._disk_bytes = disk_bytes

    def free_bytes(self) -> int:
        if self._disk_bytes is None:
            return super().free_bytes()
        held = sum(path.stat().st_size for path in self._root.rglob("*") if path.is_file() and not path.is_symlink())
        return self._disk_bytes - held


class Mains:
    """Counts boundaries, and cuts the power at one of them."""

    def __init__(self) -> None:
        self.crossed: list[str] = []
        self.cut_at: int | None = None
        self.off = False

    def cross(self, name: str) -> None:
        if self.off:
            raise PowerCutError(name)
        self.crossed.append(name)
        if self.cut_at is not None and len(self.crossed) > self.cut_at:
            self.off = True
            raise PowerCutError(name)


class Wired:
    """A port with a boundary before and after each of the named calls."""

    def __init__(self, port: Any, mains: Mains, name: str, calls: tuple[str, ...]) -> None:
        self._port, self._mains, self._name, self._calls = port, mains, name, calls

    def __getattr__(self, call: str) -> Any:
        found = getattr(self._port, call)
        if call not in self._calls:
            return found

        def wired(*arguments: Any, **named: Any) -> Any:
            self._mains.cross(f"{self._name}.{call}: before")
            result = found(*arguments, **named)
            self._mains.cross(f"{self._name}.{call}: after")
            return result

        return wired


class Rig:
    """The device. `run_until` turns its clock until something is so."""

    def __init__(
        self,
        server: UpdateServerSimulator,
        state: Path,
        *,
        device_id: str = DEVICE,
        mains: Mains | None = None,
        real_patcher: bool = False,
        hardware_class: str = "any",
        precisions: tuple[str, ...] = (),
        codecs: tuple[Codec, ...] = (Codec.BSDIFF4,),
        in_place: bool = False,
        disk_bytes: int | None = None,
        contracts: Mapping[str, Contract] | None = None,
        models: tuple[str, ...] = (MODEL,),
        bandwidth_bytes_per_s: int = 0,
        threads: bool = False,
        pace: Pace | None = None,
        floor: datetime | None = None,
        enrolled_at: datetime | None = None,
        shadows: ShadowRuns | None = None,
        runtimes: Mapping[str, Runtime] | None = None,
    ) -> None:
        self.server = server
        self.state = state
        self.clock = HandClock()
        self.device_id = device_id
        self.mains = mains or Mains()
        self.real_patcher = real_patcher
        self.shadows = shadows
        self.runtimes = {"fake": FakeRuntime(), **(runtimes or {})}
        self.disk_bytes = disk_bytes
        self.profile = Profile(
            device_id=device_id,
            models=models,
            hardware_class=hardware_class,
            precisions=precisions,
            bandwidth_bytes_per_s=bandwidth_bytes_per_s,
            contracts=dict(contracts or {}),
            capabilities=Capabilities(
                runtimes={name: runtime.probe().version for name, runtime in self.runtimes.items()},
                codecs=tuple(codec.value for codec in codecs),
                max_opset=17,
                ram_bytes=2**30,
                in_place=in_place,
                shadow=shadows is not None,
            ),
        )
        self.pace = pace
        self.floor = floor or self.clock.now() - timedelta(days=1)
        self.enrolled_at = enrolled_at or self.clock.now()
        self._nonces = 0
        self.boot()

    def boot(self) -> None:
        """Power on: everything in memory is new."""
        mains = self.mains
        self.database = Database(self._made(self.state) / "client.sqlite3")
        boot = life_of(self.database, lambda: "b0b0b0b0b0b0b0b0")
        self.journal = SqliteJournal(self.database, boot)
        self.outbox = SqliteOutbox(self.database, boot)
        self.slots = SmallDisk(self.state / "models", self.disk_bytes)
        self.host = ModelHost(device_id=self.device_id, runtimes=self.runtimes, clock=self.clock, shadows=self.shadows)
        self.model = ServedModel(self.host, MODEL, lambda: None)
        self.broker = MemoryBroker(self.server, self.device_id)
        pool = connection_pool()
        self.trust = TufTrust(
            self.state / "trust",
            device_id=self.device_id,
            director_root=self.server.director_root,
            image_root=self.server.image_root,
            image_url=f"{self.server.url}/image",
            fetcher=MetadataFetcher(pool, self.clock),
            journal=self.journal,
            clock=self.clock,
            floor=self.floor,
        )
        self.identity = self._enrolled()
        journal = Wired(self.journal, mains, "journal", ("record", "remember"))
        outbox = Wired(self.outbox, mains, "outbox", ("add", "sent", "acknowledge"))
        slots = Wired(self.slots, mains, "slots", ("staging", "publish", "give_up", "point", "discard", "collect"))
        host = Wired(self.host, mains, "host", ("prepare", "self_test", "switch"))
        patcher = patch.ChildPatcher() if self.real_patcher else InlinePatcher()
        self.downloads = HttpDownloads(pool, self.clock, self.server.url, self.pace)
        self.installer = Installer(
            profile=self.profile,
            slots=slots,
            downloads=Wired(self.downloads, mains, "downloads", ("fetch",)),
            patcher=Wired(patcher, mains, "patcher", ("apply", "stream", "apply_in_place")),
            host=host,
            journal=journal,
            clock=self.clock,
            dice=lambda: 0.5,
            room=None if self.disk_bytes is None else Room(spare_bytes=4_096, beside_bytes=4_096),
        )
        self.agent = Agent(
            profile=self.profile,
            journal=journal,
            outbox=outbox,
            slots=slots,
            trust=Wired(self.trust, mains, "trust", ("accept", "authorise")),
            installer=self.installer,
            host=host,
            meter=self.host,
            broker=Wired(self.broker, mains, "broker", ("publish",)),
            identity=Wired(self.identity, mains, "identity", ("renew",)),
            clock=self.clock,
            dice=lambda: 0.5,
            make_nonce=self._nonce,
            jobs=InlineJobs,
        )

    def _enrolled(self) -> StoredIdentity:
        """The identity on disk; the first time, what enrolment leaves there."""
        paths = IdentityPaths(self._made(self.state / "identity"))
        if not paths.certificate.exists():
            request = make_request(make_key(paths), self.device_id)
            paths.authority.write_text(self.server.certificates.anchor_pem())
            paths.certificate.write_text(self.server.certificates.enrol(request, self.device_id, self.enrolled_at))
        self.identity_paths = paths
        return StoredIdentity(paths, self.device_id, self.server.url, connection_pool())

    @staticmethod
    def _made(directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _nonce(self) -> str:
        self._nonces += 1
        return f"{self._nonces:032x}"

    def skip_nonces(self, count: int) -> None:
        """Devices that share an id must not share nonces."""
        self._nonces += count

    def start(self) -> None:
        """What `Agent.run` does before its loop."""
        self.agent.recover()
        self.agent.connect()

    def unplug(self) -> None:
        """Power off without a word."""
        self.database.close()

    def cut_power(self, _seconds: float) -> None:
        """Lights out, here and now."""
        self.mains.off = True
        raise PowerCutError("cut")

    def restart(self) -> None:
        """A reboot after a cut: the mains are back, nothing in memory is left."""
        self.unplug()
        self.mains.off = False
        self.mains.cut_at = None
        self.boot()
        self.start()

    def settle(self, turns: int = 200) -> None:
        """Deal with everything that is due now."""
        for _ in range(turns):
            if not self.agent.turn(0.0):
                return
        raise AssertionError("the agent does not come to rest")

    def run_until(self, so: Callable[[], bool], *, within_s: float = 120.0, step_s: float = 0.25) -> None:
        """Let time pass until something is so."""
        until = self.clock.monotonic() + within_s
        self.settle()
        while not so():
            if self.clock.monotonic() > until:
                raise AssertionError(f"not so within {within_s:g} s: {self.deployment}")
            self.clock.advance(step_s)
            self.settle()

    @property
    def deployment(self) -> Any:
        return self.agent.deployments[MODEL]

    @property
    def current(self) -> str:
        return self.slots.links(MODEL).current

    def run_to(self, state: UpdateState, manifest: Manifest | None = None, **how: Any) -> None:
        """Let time pass until the model's update is in `state` (of `manifest`)."""
        self.run_until(
            lambda: (
                self.deployment.state is state
                and (manifest is None or (self.deployment.target or _NOBODY).digest == manifest.digest)
            ),
            **how,
        )
        self.run_until(lambda: self.outbox.depth() == 0)

    def poke(self) -> None:
        """Have the device ask now."""
        from device_client.wire import topics
        from device_client.wire.topics import Down

        self.broker.deliver(topics.down(self.device_id, Down.POKE), b"")
        self.settle()

    def infer(self, x: float = 1.0) -> float:
        """One inference of the application."""
        with self.model.lease() as lease:
            return float(lease.infer(x=np.array([[x]], dtype=np.float32)).outputs["y"][0, 0])


class _Nobody:
    digest = ""


_NOBODY = _Nobody()
