"""What runs where, in a fleet that is too large to be counted for each page."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.apps.devices import counts, selectors
from fleet.apps.devices.models import Device, DeviceModel, FleetCount
from fleet.apps.devices.records import DeviceChoice, RunningCount
from fleet.apps.jobs import selectors as jobs
from tests.server.catalogue import MODEL, NOW, later

pytestmark = pytest.mark.django_db
AWAY = NOW - counts.AWAY_AFTER - timedelta(hours=1)


def enrol(number: int, **more: object) -> None:
    """A device that attests a version; every third is offline and away."""
    is_away = number % 3 == 0
    device = Device.objects.create(
        id=f"dev-{number}",
        hardware_class=f"class-{number % 2}",
        online=not is_away,
        enrolled_at=NOW,
        last_seen_at=AWAY if is_away else NOW,
        **more,
    )
    DeviceModel.objects.create(
        device=device, model=MODEL, active_version=str(number % 2 + 1), state="idle", updated_at=NOW
    )


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve active devices and one in quarantine, which are many."""
    monkeypatch.setattr(counts, "COUNTED_AT_ONCE", 10)
    for number in range(12):
        enrol(number)
    enrol(12, state=Device.State.QUARANTINED)


ROWS = (RunningCount("1", "class-0", 6, 4, 2), RunningCount("2", "class-1", 6, 4, 2))


def test_fleet__not_counted_yet__is_counted_for_who_asks(fleet: None) -> None:
    found = counts.fleet(NOW)
    assert (found.total, found.online, found.away, found.counted_at) == (12, 8, 4, NOW)
    assert counts.running(MODEL, NOW).rows == ROWS


def test_fleet__counted_by_a_job__is_shown_as_it_was_then(fleet: None) -> None:
    counts.count({}, NOW)
    enrol(13)
    enrol(14)
    with CaptureQueriesContext(connection) as queries:
        found, rows = counts.fleet(later(9)), counts.running(MODEL, later(9))
    assert len(queries) == 2
    assert (found.total, found.online, found.away, found.counted_at) == (12, 8, 4, NOW)
    assert (rows.rows, rows.counted_at) == (ROWS, NOW)
    counts.count({}, later(60))
    assert (counts.fleet(later(61)).total, counts.running(MODEL, later(61)).counted_at) == (14, later(60))


def test_count__model_that_nobody_runs_any_more__is_forgotten(fleet: None) -> None:
    counts.count({}, NOW)
    DeviceModel.objects.update(model="vision.other")
    counts.count({}, later(60))
    assert set(FleetCount.objects.values_list("pk", flat=True)) == {"", "vision.other"}
    assert counts.running(MODEL, later(60)).rows == ()


def test_ask__again_and_again__once_a_minute(fleet: None) -> None:
    for second in (0, 15, 30, 45):
        counts.ask(later(second))
    assert [job.key for job in jobs.jobs(kind=counts.JOB_KIND)] == ["all"]


def test_ask__fleet_became_small__is_counted_for_who_asks_again(fleet: None) -> None:
    counts.count({}, NOW)
    Device.objects.filter(pk__gt="dev-3").delete()
    counts.ask(later(60))
    assert not jobs.jobs(kind=counts.JOB_KIND)
    assert counts.fleet(later(60)).counted_at == later(60)


def test_attesting__active_devices_of_one_version__counted(fleet: None) -> None:
    assert [selectors.attesting(MODEL, version) for version in ("1", "2", "3")] == [6, 6, 0]
    with CaptureQueriesContext(connection) as queries:
        selectors.attesting(MODEL, "3")
    assert "JOIN" not in "".join(query["sql"] for query in queries)


@pytest.mark.parametrize(
    ("choice", "devices"),
    [
        (DeviceChoice(), 13),
        (DeviceChoice(state="active"), 12),
        (DeviceChoice(hardware_class="class-1"), 6),
        (DeviceChoice(hardware_class="class-0", online=True), 4),
        (DeviceChoice(hardware_class="no-such"), 0),
        (DeviceChoice(search="dev-1"), None),
        (DeviceChoice(model=MODEL, version="1"), None),
    ],
    ids=["all", "state", "class", "connection", "none", "search", "version"],
)
def test_matching__counted_by_a_job__as_counted_now_or_unknown(
    fleet: None, choice: DeviceChoice, devices: int | None
) -> None:
    counted_now = counts.matching(choice)
    assert counted_now == selectors.count_devices(choice=choice)
    counts.count({}, NOW)
    assert counts.matching(choice) == devices
    assert devices in (None, counted_now)
    assert counts.hardware_classes() == selectors.hardware_classes() == ("class-0", "class-1")


def test_search__rare_devices_of_many__found_part_by_part(fleet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "SEARCHED", 5)
    wanted = DeviceChoice(search="dev-9")
    parts, after = [], ""
    while True:
        found = selectors.search(choice=wanted, after=after, limit=2)
        parts.append([row.id for row in found.rows])
        after = found.following
        if not after:
            break
    assert parts == [[], [], ["dev-9"]]
    many = selectors.search(choice=DeviceChoice(hardware_class="class-1"), limit=2)
    assert ([row.id for row in many.rows], many.following) == (["dev-1", "dev-11"], "dev-12")


def test_devices__large_fleet__page_and_rest_look_in_parts(
    fleet: None, monkeypatch: pytest.MonkeyPatch, admin_client: Client
) -> None:
    monkeypatch.setattr(selectors, "SEARCHED", 5)
    counts.count({}, NOW)
    page = admin_client.get("/devices?search=dev-9", headers={"host": "127.0.0.1"})
    assert "None of the devices so far matches" in page.text
    assert "Those that match these filters" in page.text
    address, found = "/api/v1/devices?search=dev-9", []
    while address:
        answer = admin_client.get(address, headers={"host": "127.0.0.1"}).json()
        found += [item["device_id"] for item in answer["results"]]
        address = answer["next"]
    assert found == ["dev-9"]
