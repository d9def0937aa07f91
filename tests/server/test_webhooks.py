"""Webhooks against a real HTTP receiver on this machine, on both databases."""

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from fleet.adapters.clock_system import SystemClock
from fleet.adapters.webhook_http import HttpWebhookSender
from fleet.apps.audit import services as audit
from fleet.apps.jobs import services as jobs
from fleet.apps.webhooks import selectors, services
from fleet.apps.webhooks.models import Webhook
from fleet.domain.errors import InvalidInputError, NotFoundError, RefusedError, UnavailableError
from fleet.entrypoints.gateway.worker import Worker, run_together
from fleet.ports.webhook_sender import WebhookRefusedError, WebhookUnreachableError
from tests.server.catalogue import NOW

pytestmark = pytest.mark.django_db


@dataclass
class Receiver:
    """Somebody's server: what it got, and what it answers."""

    url: str = ""
    port: int = 0
    status: int = 204
    drip: bool = False
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def sender(self, **more: Any) -> HttpWebhookSender:
        return HttpWebhookSender({f"127.0.0.1:{self.port}"}, **more)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append((self.path, dict(self.headers), body))
            if found.drip:
                while not found.stop.wait(0.05):
                    self.wfile.write(b"H")
                    self.wfile.flush()
            self.send_response(found.status)
            if found.status == 302:
                self.send_header("Location", f"{found.url}/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Tests say enough."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_address[1]
    found.url = f"http://127.0.0.1:{found.port}/hook"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    found.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


def add(receiver: Receiver, *events: str, namespace: str = "") -> tuple[int, str]:
    record, secret = services.create(
        url=receiver.url, events=events or ("*",), namespace=namespace, actor="user:anna", now=NOW
    )
    return record.id, secret


def happen(action: str, subject: str = "r-1", model: str = "vision.digits", after_s: float = 1) -> None:
    at = NOW + timedelta(seconds=after_s)
    audit.record(actor="conductor", action=action, subject=subject, detail={"model": model}, now=at)


def work(receiver: Receiver, after_s: float = 1) -> list[Exception]:
    """Do what is due, as the worker does."""
    now = NOW + timedelta(seconds=after_s)
    services.announce(now=now)
    raised: list[Exception] = []
    while (job := jobs.claim(kinds=[services.JOB_KIND], owner="w", lease_s=60, now=now)) is not None:
        try:
            services.deliver(payload=job.payload, sender=receiver.sender(), now=now)
        except (RefusedError, UnavailableError) as error:
            raised.append(error)
            jobs.fail(job=job, error=str(error), now=now, permanent=isinstance(error, RefusedError))
        else:
            jobs.finish(job=job, now=now)
    return raised


def test_delivery__asked_for__arrives_once_and_is_signed(receiver: Receiver) -> None:
    webhook_id, secret = add(receiver, "rollout.*")
    happen("rollout.revert")
    happen("version.finalise")
    assert work(receiver) == []
    ((path, headers, body),) = receiver.got
    assert path == "/hook"
    assert headers["Modelfleet-Event"] == "rollout.revert"
    told = json.loads(body)
    assert (told["event"], told["subject"], told["detail"]) == ("rollout.revert", "r-1", {"model": "vision.digits"})
    at, _, given = headers["Modelfleet-Signature"].removeprefix("t=").partition(",v1=")
    assert int(at) == int((NOW + timedelta(seconds=1)).timestamp())
    assert given == hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
    (done,) = selectors.deliveries(webhook_id)
    assert (done.state, done.attempts, done.status) == ("delivered", 1, 204)
    assert headers["Modelfleet-Delivery"] == str(done.id)
    for after_s in (2, 200, 400):
        assert work(receiver, after_s) == []
    assert len(receiver.got) == 1


def test_webhook__of_a_namespace__hears_of_it_alone(receiver: Receiver) -> None:
    webhook_id, _ = add(receiver, namespace="vision")
    happen("rollout.start", model="sound.bark")
    happen("version.revoke", subject="vision.digits@3", model="")
    happen("webhook.create", subject="7", model="")
    happen("device.revoke", subject="vision", model="")
    work(receiver)
    assert [item.event for item in selectors.deliveries(webhook_id)] == ["version.revoke"]


def test_webhook__of_a_namespace__hears_of_every_stop_that_reaches_it_and_of_its_rules(receiver: Receiver) -> None:
    webhook_id, _ = add(receiver, namespace="vision")
    for scope in ("vision", "vision.digits", "*", "sound", "sound.bark", "visions"):
        happen("stop.set", subject=scope, model="")
    happen("namespace.set", subject="vision", model="")
    happen("namespace.set", subject="sound", model="")
    work(receiver)
    told = [json.loads(body) for _, _, body in receiver.got]
    assert sorted((item["event"], item["subject"]) for item in told) == [
        ("namespace.set", "vision"),
        ("stop.set", "*"),
        ("stop.set", "vision"),
        ("stop.set", "vision.digits"),
    ]
    assert len(selectors.deliveries(webhook_id)) == 4


def test_webhook__new__is_not_told_of_the_past(receiver: Receiver) -> None:
    happen("rollout.start", after_s=-10)
    webhook_id, _ = add(receiver, "rollout.*")
    work(receiver)
    assert selectors.deliveries(webhook_id) == ()


def test_delivery__entry_becomes_visible_late__is_not_lost(receiver: Receiver) -> None:
    """On PostgreSQL a transaction with a lower id may commit after one with a higher id was seen."""
    webhook_id, _ = add(receiver, "rollout.*")
    happen("rollout.start")
    work(receiver)
    began = Webhook.objects.get().seen_entry
    work(receiver, after_s=60)
    assert Webhook.objects.get().seen_entry == began, "a minute later the same entries are still looked at"
    happen("rollout.hold", after_s=61)
    work(receiver, after_s=62)
    assert [item.event for item in selectors.deliveries(webhook_id)] == ["rollout.hold", "rollout.start"]


def test_delivery__receiver_fails_then_recovers__tried_again_with_pauses(receiver: Receiver) -> None:
    webhook_id, _ = add(receiver, "rollout.*")
    happen("rollout.hold")
    receiver.status = 500
    assert len(work(receiver, 1)) == 1
    assert work(receiver, 2) == []  # not yet
    assert len(work(receiver, 4)) == 1
    receiver.status = 200
    assert work(receiver, 9) == []
    (done,) = selectors.deliveries(webhook_id)
    assert (done.state, done.attempts, done.status, done.error) == ("delivered", 3, 200, "")


def test_delivery__receiver_never_recovers__given_up_and_can_be_replayed(receiver: Receiver) -> None:
    webhook_id, _ = add(receiver, "rollout.*")
    happen("rollout.hold")
    receiver.status = 503
    for turn in range(30):
        work(receiver, 1 + 100 * turn)
    (lost,) = selectors.deliveries(webhook_id)
    assert (lost.state, lost.attempts) == ("failed", services.MAX_ATTEMPTS)
    receiver.status = 200
    services.replay(webhook_id=webhook_id, delivery_id=lost.id, now=NOW + timedelta(seconds=3_500))
    work(receiver, 3_501)
    assert selectors.deliveries(webhook_id)[0].state == "delivered"
    with pytest.raises(NotFoundError):
        services.replay(webhook_id=webhook_id + 1, delivery_id=lost.id, now=NOW)


def test_delivery__redirect__is_a_failure_and_nobody_goes_there(receiver: Receiver) -> None:
    webhook_id, _ = add(receiver, "rollout.*")
    happen("rollout.hold")
    receiver.status = 302
    work(receiver)
    assert [path for path, _, _ in receiver.got] == ["/hook"]
    assert selectors.deliveries(webhook_id)[0].error == "expected a status of 2xx, got 302"


def test_test__sent__tells_of_nothing(receiver: Receiver) -> None:
    webhook_id, _ = add(receiver, "rollout.*")
    services.send_test(webhook_id=webhook_id, actor="user:anna", now=NOW)
    work(receiver)
    assert json.loads(receiver.got[0][2])["event"] == "webhook.test"


def test_remove__with_deliveries_on_their_way__nothing_is_sent(receiver: Receiver) -> None:
    webhook_id, _ = add(receiver, "rollout.*")
    services.send_test(webhook_id=webhook_id, actor="user:anna", now=NOW)
    services.remove(webhook_id=webhook_id, actor="user:anna", now=NOW)
    assert work(receiver) == []
    assert receiver.got == []
    with pytest.raises(NotFoundError):
        services.remove(webhook_id=webhook_id, actor="user:anna", now=NOW)


@pytest.mark.parametrize(
    "url",
    [
        "", "ftp://x.org", "https://", "https://user:secret@x.org", "https://x.org/#part", "https://x.org:0",
        "https://x.org:99999", "https://x.org/" + "a" * 500, "https://x\x00.org", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_create__address_that_is_none__refused(url: str) -> None:
    with pytest.raises(InvalidInputError):
        services.create(url=url, events=["*"], namespace="", actor="user:anna", now=NOW)


@pytest.mark.parametrize("events", [[], ["Rollout"], ["rollout."], ["*.start"], ["rollout.*.x"], ["a"] * 33])
def test_create__events_that_are_none__refused(events: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        services.create(url="https://x.org", events=events, namespace="", actor="user:anna", now=NOW)


# ---------------------------------------------------------------- where a webhook may lead


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "0.0.0.0", "localhost", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",
        "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[2002:7f00:1::]", "[64:ff9b::a9fe:a9fe]",
        "224.0.0.1", "255.255.255.255", "2130706433",
    ],
)  # fmt: skip
def test_sender__address_that_is_not_public__refused_before_anything_is_sent(host: str) -> None:
    with pytest.raises(WebhookRefusedError, match="expected a public address"):
        HttpWebhookSender().post(f"https://{host}/x", {}, b"{}")


def test_sender__plain_http_to_a_stranger__refused() -> None:
    with pytest.raises(WebhookRefusedError, match="expected https"):
        HttpWebhookSender().post("http://192.0.2.1/x", {}, b"{}")


def test_sender__another_port_of_an_allowed_host__refused(receiver: Receiver) -> None:
    with pytest.raises(WebhookRefusedError):
        receiver.sender().post(f"https://127.0.0.1:{receiver.port + 1}/", {}, b"{}")


def test_sender__answers_one_byte_at_a_time__is_cut(receiver: Receiver) -> None:
    receiver.drip = True
    with pytest.raises(WebhookUnreachableError):
        receiver.sender(total_s=0.5).post(receiver.url, {"Content-Type": "application/json"}, b"{}")


def test_delivery__to_a_private_address__failed_for_good(receiver: Receiver) -> None:
    record, _ = services.create(
        url="https://10.0.0.1/x", events=["rollout.*"], namespace="", actor="user:anna", now=NOW
    )
    happen("rollout.hold")
    (error,) = work(receiver)
    assert isinstance(error, RefusedError)
    (done,) = selectors.deliveries(record.id)
    assert (done.state, done.attempts) == ("failed", 1)


# ---------------------------------------------------------------- the workers


@pytest.mark.django_db(transaction=True)
def test_workers__one_is_busy_and_one_receiver_hangs__the_others_are_told(receiver: Receiver) -> None:
    release, stop, clock = threading.Event(), threading.Event(), SystemClock()
    began = threading.Event()

    def build(_payload: Mapping[str, object], _now: datetime) -> None:
        began.set()
        release.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as hanging:
        allowed = {f"127.0.0.1:{receiver.port}", f"127.0.0.1:{hanging.getsockname()[1]}"}

        def deliver(payload: Mapping[str, object], now: datetime) -> None:
            services.deliver(payload=payload, sender=HttpWebhookSender(allowed, total_s=60), now=now)

        def announce(now: datetime) -> None:
            services.announce(now=now)

        for url in (f"http://127.0.0.1:{hanging.getsockname()[1]}/hook", receiver.url):
            services.create(url=url, events=("rollout.*",), namespace="", actor="user:anna", now=clock.now())
        jobs.enqueue(kind="delta", key="long", payload={}, now=clock.now())
        workers = [
            Worker({"delta": build}, "builder", clock, stop),
            *(
                Worker({services.JOB_KIND: deliver}, f"teller-{n}", clock, stop, tidy=announce, tidy_s=0.1)
                for n in "ab"
            ),
        ]
        together = threading.Thread(target=run_together, args=(workers, stop))
        together.start()
        try:
            assert began.wait(30)
            audit.record(
                actor="conductor", action="rollout.hold", subject="r-1", detail={"model": "a.b"}, now=clock.now()
            )
            _until(lambda: bool(receiver.got))
            assert not release.is_set()
        finally:
            release.set()
            stop.set()
            hanging.close()
            together.join()
    assert receiver.got[0][1]["Modelfleet-Event"] == "rollout.hold"


@pytest.mark.django_db(transaction=True)
def test_workers__one_of_them_breaks__all_stop_and_it_is_raised() -> None:
    def breaks(_now: datetime) -> None:
        raise LookupError("broken")

    stop = threading.Event()
    workers = [
        Worker({"a": lambda *_: None}, "a", SystemClock(), stop),
        Worker({"b": lambda *_: None}, "b", SystemClock(), stop, tidy=breaks),
    ]
    with pytest.raises(LookupError, match="broken"):
        run_together(workers, stop)
    assert stop.is_set()


def test_announce__nothing_new__writes_nothing(
    receiver: Receiver, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    add(receiver, "rollout.*")
    happen("rollout.hold")
    services.announce(now=NOW + timedelta(seconds=2))
    with django_assert_num_queries(3):  # the webhooks, the entries of the last minutes, what was told of them
        assert services.announce(now=NOW + timedelta(seconds=3)) == 0


def test_delivery__to_one_that_does_not_answer__comes_after_everybody_elses(receiver: Receiver) -> None:
    failing, _ = add(receiver, "rollout.*")
    happen("rollout.hold")
    receiver.status = 500
    work(receiver)
    healthy, _ = add(receiver, "version.*")
    happen("rollout.resume", after_s=2)
    happen("version.revoke", after_s=2)
    services.announce(now=NOW + timedelta(seconds=2))
    job = jobs.claim(kinds=[services.JOB_KIND], owner="w", lease_s=60, now=NOW + timedelta(seconds=2))
    assert job is not None
    assert [item.id for item in selectors.deliveries(healthy)] == [job.payload["delivery"]]
    assert failing != healthy


def _until(holds: Callable[[], bool], timeout_s: float = 30) -> None:
    for _ in range(int(timeout_s / 0.05)):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")
