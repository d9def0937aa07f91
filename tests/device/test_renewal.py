"""Certificates that are renewed for years: in time, after a winter, by wrong clocks, against hostile answers and cuts."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from device_client.adapters.identity import make_request
from device_client.core import renewal
from device_client.core.keys import FLOOR_KEY, RENEWAL_TROUBLE_KEY, RENEWED_KEY
from device_client.core.renewal import Validity
from tests.device.rig import DEVICE, Mains, PowerCutError, Rig, golden, weights
from tests.fakes.certificate_server import CertificateServerSimulator
from tests.fakes.update_server import UpdateServerSimulator

DAY_S = 86_400.0
LIFE = timedelta(days=30)


def certificate(rig: Rig) -> x509.Certificate:
    return x509.load_pem_x509_certificates(rig.identity_paths.certificate.read_bytes())[0]


def enrolled_ago(server: UpdateServerSimulator, state_dir: Path, days: float, **how: object) -> Rig:
    made = Rig(server, state_dir, enrolled_at=datetime.now(tz=UTC) - timedelta(days=days), **how)  # type: ignore[arg-type]
    server.certificates.now = made.clock.now
    return made


def let_pass(rig: Rig, *, days: float, step_s: float = DAY_S / 4) -> None:
    """Time passes in leaps, each of which brings whatever was due in it."""
    for _ in range(int(days * DAY_S / step_s)):
        rig.clock.advance(step_s)
        rig.settle()


@pytest.fixture
def due(server: UpdateServerSimulator, state_dir: Path) -> Iterator[Rig]:
    """A device whose certificate is past half its life."""
    made = enrolled_ago(server, state_dir, 16)
    yield made
    made.unplug()


@pytest.fixture
def lapsed(server: UpdateServerSimulator, state_dir: Path) -> Iterator[Rig]:
    """A device that was parked for a winter."""
    made = enrolled_ago(server, state_dir, 120)
    yield made
    made.unplug()


# ------------------------------------------------------------------------------------------ the decision

VALID = Validity(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC))
moments = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2120, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis adds the zone


@pytest.mark.parametrize("day", range(1, 32))
def test_decision__right_clock__at_half_life(day: int) -> None:
    now = datetime(2026, 1, day, 0, 0, 1, tzinfo=UTC)
    assert renewal.is_due(VALID, VALID.not_before_at, now) is (day > 15)


@given(clock=moments)
def test_decision__just_received__never_due_whatever_the_clock(clock: datetime) -> None:
    for seconds in (0, 1, 3_600, 14 * DAY_S):
        assert not renewal.is_due(VALID, clock, clock + timedelta(seconds=seconds)) or clock < VALID.not_before_at


@given(clock=moments, received_at=moments)
def test_decision__clock_that_was_put_right__dates_count_again(clock: datetime, received_at: datetime) -> None:
    if not received_at <= clock < received_at + VALID.half_life:
        assert renewal.is_due(VALID, received_at, clock) is (clock >= VALID.renew_at)


@given(clock=moments, floor=moments)
def test_best_time__never_before_a_signed_one(clock: datetime, floor: datetime) -> None:
    assert renewal.best_time(clock, floor) >= floor
    assert renewal.best_time(clock, None) == clock


# ------------------------------------------------------------------------------------------ in time


def test_renewal__before_half_life__not_asked(rig: Rig, server: UpdateServerSimulator) -> None:
    before = certificate(rig)
    rig.start()
    let_pass(rig, days=14)
    assert server.certificates.renewals == []
    assert certificate(rig) == before


def test_renewal__at_half_life__new_certificate_and_a_new_connection(due: Rig, server: UpdateServerSimulator) -> None:
    before = certificate(due)
    due.start()
    due.run_until(lambda: server.certificates.renewals == [DEVICE], within_s=61)
    due.settle()
    after = certificate(due)
    assert after.public_key() == before.public_key()
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert (due.broker.renewals, due.broker.up) == (1, True)
    assert due.identity_paths.certificate.stat().st_mode & 0o077 == 0
    let_pass(due, days=14)
    assert len(server.certificates.renewals) == 1


def test_renewal__for_a_year__never_lapses(rig: Rig, server: UpdateServerSimulator) -> None:
    server.certificates.now = rig.clock.now
    server.poll_interval_s = int(10 * DAY_S)
    rig.start()
    for _ in range(365):
        let_pass(rig, days=1, step_s=DAY_S)
        assert certificate(rig).not_valid_after_utc - rig.clock.now() > timedelta(days=13)
    assert len(server.certificates.renewals) == pytest.approx(365 / 15, abs=3)


def test_renewal__certificates_of_six_hours__renewed_all_day(server: UpdateServerSimulator, state_dir: Path) -> None:
    """The shortest that an agent keeps alive, which looks once an hour."""
    server.certificates = CertificateServerSimulator(server.now, timedelta(hours=6))
    rig = enrolled_ago(server, state_dir, 0)
    rig.start()
    for _ in range(48):
        let_pass(rig, days=1 / 48, step_s=1_800)
        assert certificate(rig).not_valid_after_utc > rig.clock.now()
    assert 5 <= len(server.certificates.renewals) <= 8
    rig.unplug()


# ------------------------------------------------------------------------------------------ after a winter


def test_lapsed__at_start__renewed_before_the_broker_is_asked(lapsed: Rig, server: UpdateServerSimulator) -> None:
    lapsed.start()
    before = lapsed.broker.up
    lapsed.settle()
    assert (before, lapsed.broker.up) == (False, True)
    assert server.certificates.renewals == [DEVICE]
    assert certificate(lapsed).not_valid_after_utc > lapsed.clock.now() + timedelta(days=29)
    assert len(server.checks[DEVICE]) == 1


def test_lapsed__server_refuses__connects_all_the_same_and_asks_ever_later(
    lapsed: Rig, server: UpdateServerSimulator
) -> None:
    before = certificate(lapsed)
    server.certificates.misbehaviour.refusal = (403, "the device was revoked")
    lapsed.start()
    lapsed.settle()
    assert lapsed.broker.up
    let_pass(lapsed, days=2, step_s=600)
    assert 40 <= len(server.certificates.renewals) <= 80
    assert "the device was revoked" in (lapsed.journal.recall(RENEWAL_TROUBLE_KEY) or "")
    assert certificate(lapsed) == before
    server.certificates.misbehaviour.refusal = None
    lapsed.run_until(lambda: certificate(lapsed) != before, within_s=4_000, step_s=600)
    assert lapsed.journal.recall(RENEWAL_TROUBLE_KEY) == ""


# ------------------------------------------------------------------------------------------ wrong clocks


def test_clock_years_ahead__renewed_once_and_not_again_at_restarts(rig: Rig, server: UpdateServerSimulator) -> None:
    rig.clock.set(datetime(2099, 1, 1, tzinfo=UTC))
    rig.start()
    for _ in range(10):
        let_pass(rig, days=1)
        rig.restart()
    assert len(server.certificates.renewals) == 1


def test_old_certificate_put_back__from_a_copy__renewed_again(lapsed: Rig, server: UpdateServerSimulator) -> None:
    copy = lapsed.identity_paths.certificate.read_bytes()
    lapsed.start()
    lapsed.settle()
    lapsed.identity_paths.certificate.write_bytes(copy)
    lapsed.restart()
    lapsed.settle()
    assert server.certificates.renewals == [DEVICE, DEVICE]


def test_clock_that_lost_its_battery__signed_time_says_that_it_is_due(due: Rig, server: UpdateServerSimulator) -> None:
    due.journal.remember({FLOOR_KEY: str(int(due.clock.now().timestamp()))})
    due.clock.set(datetime(1970, 1, 1, tzinfo=UTC))
    due.start()
    due.run_until(lambda: server.certificates.renewals == [DEVICE], within_s=61)
    due.run_until(lambda: bool(due.journal.recall(RENEWED_KEY)))


# ------------------------------------------------------------------------------------------ hostile and absent servers


@pytest.mark.parametrize(
    "wrong",
    [
        {"named": "dev-2"},
        {"header": "dev-2"},
        {"foreign": True},
        {"request": make_request(ec.generate_private_key(ec.SECP256R1()), DEVICE)},
        {"body": b""},
        {"body": b"nonsense"},
        {"body": base64.b64encode(b"nonsense")},
        {"body": b"A" * 1_000_000},
        {"refusal": (429, "come later")},
        {"refusal": (500, "")},
        {"refusal": (302, "")},
    ],
    ids=lambda wrong: (
        "-".join(f"{name}-{value!s:.12}" for name, value in wrong.items() if name != "request") or "request"
    ),
)
def test_answer__not_a_certificate_of_this_device__replaces_nothing(
    due: Rig, server: UpdateServerSimulator, wrong: dict[str, object]
) -> None:
    for name, value in wrong.items():
        setattr(server.certificates.misbehaviour, name, value)
    before = due.identity_paths.certificate.read_bytes()
    due.start()
    due.run_until(lambda: bool(server.certificates.renewals), within_s=61)
    due.settle()
    assert due.identity_paths.certificate.read_bytes() == before
    assert due.journal.recall(RENEWAL_TROUBLE_KEY)
    assert (due.broker.renewals, due.broker.up) == (0, True)


def test_server__away__inference_and_updates_go_on(due: Rig, server: UpdateServerSimulator) -> None:
    server.certificates.misbehaviour.refusal = (503, "away")
    manifest = server.push("vision.digits", "1", weights(1.0), extra={"golden.json": golden(1.0)})
    server.assign(DEVICE, manifest)
    due.start()
    due.run_until(lambda: due.current == manifest.digest and bool(server.certificates.renewals))
    assert due.infer(1.0) == 2.0


# ------------------------------------------------------------------------------------------ power cuts


def test_power_cut__at_every_boundary_of_a_renewal__a_whole_certificate_and_renewed_in_the_end(
    server: UpdateServerSimulator, state_dir: Path
) -> None:
    boundaries = 0
    while True:
        rig = enrolled_ago(server, state_dir / str(boundaries), 120, mains=Mains())
        rig.mains.cut_at = boundaries
        key = certificate(rig).public_key()
        try:
            rig.start()
            rig.settle()
        except PowerCutError:
            assert certificate(rig).public_key() == key
            rig.restart()
            rig.settle()
        finished = not rig.mains.off and rig.mains.cut_at is not None
        assert certificate(rig).not_valid_after_utc > rig.clock.now() + timedelta(days=29)
        assert rig.broker.up
        rig.unplug()
        if finished:
            break
        boundaries += 1
    assert any("identity.renew" in name for name in rig.mains.crossed)
    assert boundaries > 4
