"""What the rollout benchmark does to a fleet. Import it after Django was set up, on an empty, migrated database."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.db.models import Model
from django.test import Client

from device_client.wire.bucketing import bucket, control_range, share_range
from fleet.apps.assignments.models import Offer
from fleet.apps.devices import counts
from fleet.apps.devices import selectors as devices
from fleet.apps.devices.records import DeviceChoice, DeviceRecord
from fleet.apps.jobs import answers
from fleet.apps.jobs import services as jobs
from fleet.apps.rollouts import dry_runs, selectors, services
from fleet.apps.rollouts.records import RolloutRecord
from fleet.apps.telemetry import services as telemetry
from fleet.apps.telemetry.models import DeviceTotal, GateTotal
from fleet.apps.telemetry.pasts import PastCache
from fleet.apps.telemetry.records import Incoming
from fleet.domain.facts import DeviceFacts
from fleet.domain.filters.filter import Filter
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import RolloutState
from tests.bench.rollout_fleet import device_ids, make_fleet
from tests.bench.rollout_process import PHASE_DEVICES, Meter
from tests.fakes.fleet_simulator import CAPABILITIES, SimulatedDevice
from tests.server.catalogue import MODEL, NOW, make_version

HOLDER: Final = "bench"
SEED: Final = "bench"
FILTER: Final = 'hw in ("edge-std", "orin") and attributes.site == "a" and capabilities.max_opset >= 13'
PAGES: Final = (
    *("/", "/models", f"/models/{MODEL}", "/rollouts", "/rollouts/new", "/audit"),
    *(
        "/devices",
        "/devices?class=orin",
        "/devices?search=no-such",
        "/devices?filter=attributes.site%3D%3D%22nowhere%22",
    ),
    *("/api/v1/devices?filter=attributes.site%3D%3D%22nowhere%22", "/metrics"),
)
GATES: Final[dict[str, Any]] = {
    "accuracy": {"margin_points": 2, "min_labels_per_device": 20},
    "latency": {"slow_ms": 100, "margin_points": 2},
    "errors": {"max_share": 0.02},
    "nan": {"max_share": 0.001},
}
HOUR_S: Final = 3_600


class Operations:
    """The fleet, and one turn of each kind of operation. The clock moves only here."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.now = NOW
        self.dice = random.Random(1)
        self.pasts = PastCache()  # as a conductor keeps it
        first = make_version("1")
        make_version("2")
        make_fleet(size, first, NOW)
        self._complete(self._begin("1", _policy([1.0])))

    def turns(self, meter: Meter) -> Iterator[Callable[[], None]]:
        """Each is repeated before the next one is asked for."""
        yield lambda: self._ramp(meter)
        ramp = self._measured_phase()
        yield lambda: self._tick(meter)
        yield lambda: self._count_fleet(meter)
        yield lambda: self._dry_run(meter)
        yield from self._pages(meter, ramp)

    # ------------------------------------------------------------ what an operator does

    def _ramp(self, meter: Meter) -> None:
        policy = _policy([0.01, 0.02, 0.03, 0.05, 1.0])
        with meter.operation("create"):
            started = self._start("2", policy)
        with meter.operation("count"):
            self._count()
        for _ in range(2):
            with meter.operation("advance"):
                services.advance(rollout_id=started.id, actor="bench", reason="", now=self._later())
            self._count()
        with meter.operation("halt"):
            services.hold(rollout_id=started.id, actor="bench", reason="", now=self._later())
        with meter.operation("resume"):
            services.resume(rollout_id=started.id, actor="bench", reason="", now=self._later())
        with meter.operation("revert"):
            services.revert(rollout_id=started.id, actor="bench", reason="", now=self._later())
        with meter.operation("tick_revert"):
            seen = services.tick(now=self._later(), holder=HOLDER)
        assert [item.action for item in seen.decisions] == ["reverted"], seen

    def _count(self) -> None:
        """What a worker does: count the population that was asked for, and begin a rollout that waited for it."""
        self._work(services.JOB_KIND, services.count_population)

    # ------------------------------------------------------------ what the conductor does

    def _tick(self, meter: Meter) -> None:
        with meter.operation("tick"):
            seen = services.tick(now=self._later(), holder=HOLDER, pasts=self.pasts)
        assert seen.is_leader
        assert not seen.failures, seen.failures
        assert not seen.decisions, seen.decisions[0].sentence

    def _measured_phase(self) -> RolloutRecord:
        """A rollout in its first phase, with everything measured of 20,000 devices on each side, or of all there are."""
        share = min(0.25, PHASE_DEVICES / (0.9 * self.size))
        started = self._begin("2", _policy([share, 1.0], max(0.25, share)))
        policy = RolloutPolicy.parse(started.policy)
        treated_end, control_start = share_range(share).end, control_range(policy.control_share).start
        sides: dict[str, list[tuple[str, str]]] = {"treated": [], "control": []}
        for device in device_ids(self.size):
            place = bucket(SEED, device[0])
            side = "treated" if place < treated_end else "control" if place >= control_start else ""
            if side and len(sides[side]) < PHASE_DEVICES:
                sides[side].append(device)
        assert started.rule_id is not None
        self._offer(started.rule_id, sides["treated"])
        for side, version in (("treated", "2"), ("control", "1")):
            self._measure(sides[side], version)
        self._remember([device_id for side in sides.values() for device_id, _ in side])
        return started

    def _offer(self, rule_id: int, treated: Sequence[tuple[str, str]]) -> None:
        at = self._later()
        Offer.objects.bulk_create(
            [
                Offer(
                    device_id=device_id,
                    rule_id=rule_id,
                    phase=0,
                    bucket=bucket(SEED, device_id),
                    hardware_class=hardware_class,
                    digest="0" * 64,
                    offered_at=at,
                    outcome=Offer.Outcome.COMMITTED,
                )
                for device_id, hardware_class in treated
            ],
            batch_size=2_000,
        )

    def _measure(self, measured: Sequence[tuple[str, str]], version: str) -> None:
        """One device's messages are taken in as usual; what they left is multiplied, with some noise."""
        device_id, hardware_class = measured[0]
        device = SimulatedDevice(device_id, hardware_class, MODEL, self.dice)
        object.__setattr__(device.running, "version", version)
        at = self._later()
        telemetry.take_in(
            messages=[
                Incoming(device_id, device.window(at, n=200)),
                Incoming(device_id, device.labels(at, n=60, accuracy=0.9)),
            ],
            now=self._later(),
        )
        patterns = list(GateTotal.objects.filter(device_id=device_id))
        assert patterns
        GateTotal.objects.bulk_create(
            [
                self._noisy(pattern, device_id, hardware_class)
                for device_id, hardware_class in measured[1:]
                for pattern in patterns
            ],
            batch_size=2_000,
        )

    def _remember(self, device_ids: Sequence[str]) -> None:
        """What the same devices measured of the version before, each something else: the past that a look takes out."""
        DeviceTotal.objects.all().delete()
        DeviceTotal.objects.bulk_create([self._past(device_id) for device_id in device_ids], batch_size=2_000)

    def _past(self, device_id: str) -> DeviceTotal:
        n, labels = self.dice.randrange(800, 1_200), self.dice.randrange(200, 300)
        return DeviceTotal(
            device_id=device_id,
            model=MODEL,
            version="1",
            slow_ms=GATES["latency"]["slow_ms"],
            n=n,
            errors=self.dice.randrange(5),
            nan=0,
            timed=n,
            slow=self.dice.randrange(50),
            labels=labels,
            correct=round(labels * self.dice.uniform(0.85, 0.95)),
            updated_at=self.now,
        )

    def _noisy(self, pattern: GateTotal, device_id: str, hardware_class: str) -> GateTotal:
        """Another device's total: right nine times in ten on both sides, and slow or wrong where the pattern was."""
        copy = GateTotal(**_stored(pattern))
        copy.device_id, copy.hardware_class = device_id, hardware_class
        copy.denominator = round(pattern.denominator * self.dice.uniform(0.8, 1.2))
        copy.numerator = round(copy.denominator * self.dice.uniform(0.85, 0.95)) if pattern.numerator else 0
        return copy

    # ------------------------------------------------------------ what people look at

    def _count_fleet(self, meter: Meter) -> None:
        """What a worker does once a minute for the pages of a large fleet."""
        with meter.operation("fleet_count"):
            counts.ask(self._later())
            self._work(counts.JOB_KIND, counts.count)
        self.now += counts.EVERY

    def _dry_run(self, meter: Meter) -> None:
        """What somebody asks before a start; a job counts for it. Asked again a minute later, it is counted anew."""
        policy = _policy([0.01, 1.0])
        self.now += answers.YOUNG
        asked: dict[str, Any] = {"model": MODEL, "version": "2", "policy": policy, "seed": SEED}
        with meter.operation("dry_run"):
            dry_runs.dry_run(**asked, now=self._later())
        with meter.operation("dry_run_count"):
            self._work(dry_runs.JOB_KIND, dry_runs.answer)
        with meter.operation("dry_run_answer"):
            assert dry_runs.dry_run(**asked, now=self.now) is not None

    def _work(self, kind: str, work: Callable[[Mapping[str, object], datetime], None]) -> None:
        while (job := jobs.claim(kinds=[kind], owner="w", lease_s=600, now=self._later())) is not None:
            work(job.payload, self.now)
            assert jobs.finish(job=job, now=self.now)

    def _pages(self, meter: Meter, ramp: RolloutRecord) -> Iterator[Callable[[], None]]:
        client = Client()
        client.force_login(get_user_model().objects.create_superuser("bench", password=None))

        def look(address: str) -> None:
            with meter.operation(f"page {address.replace(ramp.id, 'ID')}"):
                answer = client.get(address, headers={"host": "127.0.0.1"})
            assert answer.status_code == 200, (address, answer.status_code)

        for page in (*PAGES, f"/rollouts/{ramp.id}"):
            yield partial(look, page)

    def filters(self) -> dict[str, Any]:
        """The filter as SQL beside the same filter asked of every device in Python."""
        wanted = Filter.parse(FILTER)
        assert wanted is not None
        began = time.perf_counter()
        in_sql = devices.count_devices(choice=DeviceChoice(filter=wanted))
        sql_s = time.perf_counter() - began
        looked = asked_s = found = 0.0
        for record in devices.devices(limit=20_000):
            facts = _facts(record)
            began = time.perf_counter()
            found += wanted.matches(facts)
            asked_s += time.perf_counter() - began
            looked += 1
        assert looked < self.size or in_sql == found, (in_sql, found)
        return {
            "filter": FILTER,
            "matching": in_sql,
            "sql_us_per_device": round(1e6 * sql_s / self.size, 3),
            "predicate_us_per_device": round(1e6 * asked_s / looked, 3),
        }

    # ------------------------------------------------------------

    def _start(self, version: str, policy: object) -> RolloutRecord:
        return services.start(model=MODEL, version=version, policy=policy, seed=SEED, actor="bench", now=self._later())

    def _begin(self, version: str, policy: object) -> RolloutRecord:
        started = self._start(version, policy)
        self._count()
        found = selectors.rollout(started.id)
        assert found.state is RolloutState.RUNNING, found.because
        return found

    def _complete(self, started: RolloutRecord) -> None:
        services.advance(rollout_id=started.id, actor="bench", reason="", now=self._later())

    def _later(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def _policy(shares: Sequence[float], control_share: float = 0.25) -> dict[str, Any]:
    phases = [{"share": share, "min_duration_s": 23 * HOUR_S, "deadline_s": 24 * HOUR_S} for share in shares]
    return {"phases": phases, "control_share": control_share, "gates": GATES}


def _stored(row: Model) -> dict[str, Any]:
    """What a row holds, but for its primary key."""
    fields = [item for item in row._meta.concrete_fields if not item.primary_key]
    return {item.attname: getattr(row, item.attname) for item in fields}


def _facts(record: DeviceRecord) -> DeviceFacts:
    return DeviceFacts(
        device_id=record.id,
        hardware_class=record.hardware_class,
        capabilities=CAPABILITIES,
        groups=frozenset(record.groups),
        attributes=record.attributes,
    )
