"""Director, publisher and worker against a broker in memory and a real database."""

import json
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from device_client.wire.bucketing import BUCKETS
from device_client.wire.director import Assigned, Binding, Decision
from device_client.wire.messages import BundleMessage, PlanNotice
from device_client.wire.topics import Down, Up, down, up
from fleet.apps.assignments import selectors as assigned
from fleet.apps.assignments import services as assignments
from fleet.apps.devices import selectors as device_selectors
from fleet.apps.devices import services as devices
from fleet.apps.jobs import selectors as job_selectors
from fleet.apps.jobs import services as jobs
from fleet.apps.outbox import selectors as outbox_selectors
from fleet.apps.outbox import services as outbox
from fleet.apps.telemetry import selectors as telemetry
from fleet.apps.trust import selectors as trust
from fleet.apps.trust.records import Repository
from fleet.domain.errors import InvalidInputError
from fleet.domain.facts import RuleState
from fleet.domain.policy import RolloutPolicy
from fleet.entrypoints.gateway.director import CHECK_BURST, Director
from fleet.entrypoints.gateway.publisher import Publisher
from fleet.entrypoints.gateway.rate import MAX_TRACKED, RateLimit
from fleet.entrypoints.gateway.worker import Work, Worker
from fleet.ports.broker import Delivery
from tests.embedded_broker import wait_for
from tests.fakes.broker import FakeBroker, FakeHub
from tests.fakes.clock import FakeClock, FrozenClock
from tests.fakes.fleet_simulator import FleetSimulator, SimulatedDevice
from tests.server.catalogue import MODEL, NOW, Release, later, make_version
from tests.server.ceremony import Keys, hold_ceremony, new_signer

# ---------------------------------------------------------------- director


class DirectorWorld:
    """A director, a hub that keeps what it publishes, and one enrolled device."""

    def __init__(self, keys: Keys | None) -> None:
        self.hub = FakeHub()
        self.clock = FrozenClock(later(10))
        broker = FakeBroker(self.hub, "_director-1", ["fleet/v1/d/+/down/bundle"])
        broker.start()
        signer = new_signer() if keys is None else keys.director
        self.director = Director(broker, self.clock, signer, lambda sha256: f"/blobs/{sha256}", threading.Event())
        self.device: SimulatedDevice = FleetSimulator(1, model=MODEL).devices[0]
        self.let_go = 0
        devices.enrol(device_id=self.device.device_id, hardware_class="edge-std", attributes={}, now=NOW)

    def send(self, payload: bytes, device_id: str | None = None) -> BundleMessage | None:
        before = len(self.hub.published)
        topic = up(device_id or self.device.device_id, Up.CHECK)
        self.director.take(Delivery(topic, payload, self._count))
        sent = self.hub.published[before:]
        assert all(message.topic == down(self.device.device_id, Down.BUNDLE) for message in sent)
        return BundleMessage.parse(sent[0].payload) if sent else None

    def ask(self) -> BundleMessage | None:
        return self.send(self.device.check(self.clock.now()).encode())

    def _count(self) -> None:
        self.let_go += 1


def run_rule(release: Release, seed: str = "s1") -> int:
    rule_id = assignments.create_rule(
        source="r-000000000001",
        model=MODEL,
        version_id=release.id,
        seed=seed,
        policy=RolloutPolicy.parse({"phases": [{"share": 1}], "allow_delta": False}),
        now=NOW,
    )
    assignments.set_rule(rule_id=rule_id, state=RuleState.RUNNING, phase=0, treated_end=BUCKETS, now=NOW)
    return rule_id


def drops() -> list[tuple[str, str, int]]:
    return [(row.kind, row.code, row.count) for row in telemetry.dropped()]


def read_targets(bundle: BundleMessage) -> Targets:
    """The director's targets, verified with the imported root as a device does."""
    (record,) = trust.roots(Repository.DIRECTOR)
    root = Metadata[Root].from_bytes(record.payload)
    name = next(name for name in bundle.director if name.endswith(".targets.json"))
    for file in (name, "timestamp.json", name.replace("targets", "snapshot")):
        role = file.rsplit(".", 2)[-2] if file.count(".") == 2 else "timestamp"
        root.verify_delegate(role, Metadata.from_bytes(bundle.director[file].encode()))
    return Metadata[Targets].from_bytes(bundle.director[name].encode()).signed


@pytest.mark.django_db
def test_director__check__is_answered_with_a_signed_bundle_and_tickets() -> None:
    world, release = DirectorWorld(hold_ceremony()), make_version("1")
    rule_id = run_rule(release)
    check = world.device.check(world.clock.now())
    bundle = world.send(check.encode())
    assert bundle is not None
    assert bundle.nonce == check.nonce
    targets = read_targets(bundle).targets
    binding = Binding.parse(targets[f"device/{world.device.device_id}"].custom)
    assert (binding.nonce, binding.answers[MODEL].decision) == (check.nonce, Decision.NOW)
    manifest = targets[f"models/{MODEL}/1/onnx-fp32-any.json"]
    assert manifest.hashes == {"sha256": release.digest}
    assert Assigned.parse(manifest.custom).rollout == "r-000000000001"
    assert bundle.tickets == {sha: f"/blobs/{sha}" for sha in (release.digest, *release.weights.values())}
    assert device_selectors.device(world.device.device_id).last_check_at == world.clock.now()
    assert len(assigned.offer_records(rule_id=rule_id)) == 1
    assert world.let_go == 1


@pytest.mark.django_db
def test_director__asked_again__signs_a_higher_version() -> None:
    world = DirectorWorld(hold_ceremony())
    run_rule(make_version("1"))
    versions = []
    for _ in range(2):
        bundle = world.ask()
        assert bundle is not None
        versions.append(read_targets(bundle).version)
    assert versions == [int(later(10).timestamp()), int(later(10).timestamp()) + 1]


@pytest.mark.django_db
def test_director__trust_not_set_up__offers_nothing_and_still_sees_the_device() -> None:
    world = DirectorWorld(None)
    rule_id = run_rule(make_version("1"))
    assert world.ask() is None
    assert drops() == [("check", "trust_not_set_up", 1)]
    assert assigned.offer_records(rule_id=rule_id) == ()
    assert device_selectors.device(world.device.device_id).last_check_at == later(10)


@pytest.mark.django_db
@pytest.mark.parametrize("state", ["revoked", "quarantined"])
def test_director__device_not_active__gets_nothing(state: str) -> None:
    world = DirectorWorld(hold_ceremony())
    run_rule(make_version("1"))
    devices.set_state(device_id=world.device.device_id, state=state, now=NOW)
    assert world.ask() is None
    assert drops() == [("check", "device_not_active", 1)]


@pytest.mark.django_db
def test_director__storm_of_nonsense__answers_the_good_check_after_it() -> None:
    world = DirectorWorld(hold_ceremony())
    run_rule(make_version("1"))
    check = world.device.check(world.clock.now())
    surrogate = json.loads(check.encode())
    surrogate["attributes"] = {"site": "\ud800"}
    storm = [b"", b"[" * 9_000, b"\x00", json.dumps({"v": 7}).encode(), json.dumps(surrogate).encode()]
    assert [world.send(payload) for payload in storm] == [None] * len(storm)
    assert world.send(check.encode(), "never-enrolled") is None
    assert world.ask() is not None
    assert world.let_go == len(storm) + 2
    assert drops() == [
        ("check", "device_not_active", 1),
        ("check", "malformed_message", 4),
        ("check", "unknown_version", 1),
    ]


@pytest.mark.django_db
def test_director__device_asks_without_end__is_held_back() -> None:
    world = DirectorWorld(hold_ceremony())
    run_rule(make_version("1"))
    answers = [world.ask() for _ in range(int(CHECK_BURST) + 5)]
    assert sum(answer is not None for answer in answers) == int(CHECK_BURST)
    assert drops()[0][:2] == ("check", "rate_limited")


@pytest.mark.django_db
def test_director__broker_away__lets_the_check_go() -> None:
    world = DirectorWorld(hold_ceremony())
    world.hub.available = False
    assert world.ask() is None
    assert world.let_go == 1
    assert drops() == []


def test_rate_limit__burst_then_steady__admits_as_agreed() -> None:
    limit = RateLimit(per_second=2.0, burst=3.0)
    assert [limit.admits("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert limit.admits("b", 0.0)
    assert [limit.admits("a", 0.5), limit.admits("a", 0.5)] == [True, False]
    assert [limit.admits("a", 100.0) for _ in range(4)] == [True, True, True, False]


def test_rate_limit__more_keys_than_it_tracks__stays_bounded() -> None:
    limit = RateLimit(per_second=1.0, burst=1.0)
    for number in range(MAX_TRACKED + 10):
        limit.admits(str(number), 0.0)
    assert len(limit._left) == MAX_TRACKED


# ---------------------------------------------------------------- publisher


class PublisherWorld:
    """A publisher that may write plan notices and pokes."""

    def __init__(self) -> None:
        self.hub = FakeHub()
        self.clock = FakeClock(later(10))
        self.stop = threading.Event()
        self.turns = 0
        broker = FakeBroker(self.hub, "_publisher-1", ["fleet/v1/plan/+", "fleet/v1/d/+/down/poke"])
        self.shut_out: list[datetime] = []
        self.publisher = Publisher(broker, self.clock, self.image, self.shut_out.append, self.stop)
        self.image_fails = False
        broker.start()

    def image(self, _now: datetime) -> int:
        self.turns += 1
        if self.image_fails:
            raise InvalidInputError("broken", "the image repository is broken")
        return 0

    def topics(self) -> list[str]:
        return [message.topic for message in self.hub.published]


def put(topic: str, payload: bytes = b"{}") -> int:
    return outbox.enqueue(topic=topic, payload=payload, retain=False, now=NOW)


@pytest.mark.django_db
def test_publisher__outbox__is_drained_in_order() -> None:
    world = PublisherWorld()
    topics = [f"fleet/v1/plan/{number:08x}" for number in range(150)]
    for topic in topics:
        put(topic)
    assert [world.publisher.drain() for _ in range(3)] == [100, 50, 0]
    assert world.topics() == topics
    assert outbox_selectors.depth() == 0


@pytest.mark.django_db
def test_publisher__one_message_refused__publishes_the_others_and_tries_it_later() -> None:
    world = PublisherWorld()
    put("fleet/v1/plan/aaaaaaaa")
    put("fleet/v1/d/dev-1/down/bundle")
    put("fleet/v1/plan/bbbbbbbb")
    assert world.publisher.drain() == 2
    assert world.topics()[-1] == "fleet/v1/plan/bbbbbbbb"
    assert world.publisher.drain() == 0
    assert [item.attempts for item in outbox.claim_batch(limit=10, now=later(11))] == [1]


@pytest.mark.django_db
def test_publisher__broker_away__keeps_everything_for_later() -> None:
    world = PublisherWorld()
    world.stop.set()
    put("fleet/v1/plan/aaaaaaaa")
    world.hub.available = False
    assert world.publisher.drain() == 0
    world.hub.available = True
    assert world.publisher.drain() == 1


@pytest.mark.django_db
def test_publisher__broker_was_replaced__gets_every_notice_again() -> None:
    run_rule(make_version("1"))
    world = PublisherWorld()
    world.publisher.drain()
    (notice,) = world.hub.retained.values()
    world.hub.retained.clear()
    world.publisher.repeat_notices()
    world.publisher.drain()
    assert list(world.hub.retained.values()) == [notice]
    assert PlanNotice.parse(notice.payload).revision == 1


@pytest.mark.django_db
def test_publisher__image_repository_fails__goes_on() -> None:
    world = PublisherWorld()
    world.image_fails = True
    world.publisher.publish_image()
    put("fleet/v1/plan/aaaaaaaa")
    assert world.publisher.drain() == 1
    assert world.turns == 1


# ---------------------------------------------------------------- worker


def worker(work: Work, stop: threading.Event | None = None, *, lease_s: float = 60.0) -> Worker:
    return Worker({"delta": work}, "w1", FakeClock(later(10)), stop or threading.Event(), lease_s=lease_s)


def queue_job() -> None:
    jobs.enqueue(kind="delta", key="k", payload={"old": "a"}, now=NOW)


def status() -> tuple[str, int, str]:
    (row,) = job_selectors.jobs()
    return row.state, row.attempts, row.error


@pytest.mark.django_db(transaction=True)
def test_worker__work_done__is_finished_with_its_payload() -> None:
    seen: list[Mapping[str, object]] = []
    queue_job()
    assert worker(lambda payload, _: seen.append(payload)).turn()
    assert seen == [{"old": "a"}]
    assert status() == ("done", 1, "")
    assert not worker(lambda payload, _: seen.append(payload)).turn()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("error", "state"), [(OSError("disk"), "queued"), (InvalidInputError("no", "never"), "failed")]
)
def test_worker__work_fails__is_tried_again_unless_that_is_pointless(error: Exception, state: str) -> None:
    def work(_payload: Mapping[str, object], _now: datetime) -> None:
        raise error

    queue_job()
    assert worker(work).turn()
    assert status() == (state, 1, f"{type(error).__name__}: {error}")


@pytest.mark.django_db(transaction=True)
def test_worker__told_to_stop_in_the_middle__gives_the_work_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.entrypoints.gateway.worker.FINISH_S", 0.2)
    stop, released = threading.Event(), threading.Event()

    def work(_payload: Mapping[str, object], _now: datetime) -> None:
        stop.set()
        released.wait(20)

    queue_job()
    worker(work, stop).turn()
    assert status() == ("queued", 0, "")
    released.set()


@pytest.mark.django_db(transaction=True)
def test_worker__long_work__keeps_its_lease() -> None:
    """It outlasts its first lease, and nobody else is given the work."""
    clock = FakeClock(later(10))
    taken = []

    def work(_payload: Mapping[str, object], _now: datetime) -> None:
        for _ in range(3):
            clock.advance(0.4)
            until = clock.now() + timedelta(seconds=0.6)
            wait_for(lambda until=until: job_selectors.jobs()[0].lease_until == until, "the lease is extended")  # type: ignore[misc]
        taken.append(jobs.claim(kinds=["delta"], owner="w2", lease_s=60, now=clock.now()))

    queue_job()
    assert Worker({"delta": work}, "w1", clock, threading.Event(), lease_s=0.6).turn()
    assert taken == [None]
    assert status() == ("done", 1, "")


@pytest.mark.django_db(transaction=True)
def test_worker__lost_its_lease__records_nothing() -> None:
    clock = FakeClock(later(10))
    taken = []

    def work(_payload: Mapping[str, object], _now: datetime) -> None:
        taken.append(jobs.claim(kinds=["delta"], owner="w2", lease_s=60, now=later(1_000)))
        time.sleep(0.6)

    queue_job()
    assert Worker({"delta": work}, "w1", clock, threading.Event(), lease_s=0.3).turn()
    assert taken[0] is not None
    assert status()[:2] == ("running", 2)
    assert jobs.finish(job=taken[0], now=later(1_001))
