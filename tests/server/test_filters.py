"""A filter means the same to the database as to the device's facts; and where filters are used on the server."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_client.wire.limits import MAX_COUNT
from device_client.wire.messages import Capabilities
from fleet.apps.assignments import selectors as assignments
from fleet.apps.assignments.services import answer_check
from fleet.apps.devices import selectors, services
from fleet.apps.devices.models import Device, Group
from fleet.apps.devices.records import DeviceChoice
from fleet.domain.facts import DeviceFacts
from fleet.domain.filters.fields import CAPABILITIES
from fleet.domain.filters.filter import Filter
from fleet.domain.filters.syntax import Kind, Node, written
from tests.fakes.fleet_simulator import FleetSimulator
from tests.filter_trees import CLASSES, GROUPS, IDS, KEYS, json_values, trees
from tests.server.catalogue import MODEL, NOW, make_version
from tests.server.test_assignments import ask, decision, enrol, run_rule

pytestmark = pytest.mark.django_db

_STORED = sorted({field.key for field in CAPABILITIES.values()})
_objects = st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4)
_rows = st.fixed_dictionaries(
    {
        "hardware_class": st.sampled_from(CLASSES),
        "attributes": _objects,
        "reported_attributes": _objects,
        "capabilities": st.dictionaries(st.sampled_from(_STORED), json_values, max_size=6),
        "groups": st.sets(st.sampled_from(GROUPS), max_size=2),
    }
)


def filtered(tree: Node) -> Filter:
    found = Filter.parse(written(tree))
    assert found is not None
    return found


def facts(device_id: str, row: Mapping[str, Any]) -> DeviceFacts:
    """The device as a strict reader of the stored JSON sees it: what is of another type is not there."""
    stored: Mapping[str, Any] = row["capabilities"]
    read: dict[str, Any] = {}
    for field in CAPABILITIES.values():
        value = stored.get(field.key)
        if field.kind is Kind.NUMBER:
            is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_COUNT
            read[field.key] = value if is_count else 0
        elif field.kind is Kind.TEXT:
            read[field.key] = value if isinstance(value, str) else ""
        else:
            held: Iterable[object] = value if isinstance(value, dict | list) else ()
            read[field.key] = tuple(name for name in held if isinstance(name, str))
    return DeviceFacts(
        device_id=device_id,
        hardware_class=row["hardware_class"],
        capabilities=Capabilities(**read),
        groups=frozenset(row["groups"]),
        attributes={**row["reported_attributes"], **row["attributes"]},
    )


def store(rows: Mapping[str, Mapping[str, Any]]) -> None:
    Device.objects.all().delete()
    columns = ("hardware_class", "attributes", "reported_attributes", "capabilities")
    Device.objects.bulk_create(
        Device(id=device_id, enrolled_at=NOW, **{name: row[name] for name in columns})
        for device_id, row in rows.items()
    )
    through = Device.groups.through
    through.objects.bulk_create(
        through(device_id=device_id, group_id=name) for device_id, row in rows.items() for name in row["groups"]
    )


def test_filter__any_tree_on_any_devices__sql_and_predicate_agree() -> None:
    Group.objects.bulk_create(Group(name=name, created_at=NOW) for name in GROUPS)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(st.lists(_rows, min_size=1, max_size=len(IDS)), st.lists(trees, min_size=4, max_size=8))
    def agree(found: list[Mapping[str, Any]], asked: list[Node]) -> None:
        rows = dict(zip(IDS, found, strict=False))
        store(rows)
        for tree in asked:
            wanted = filtered(tree)
            by_facts = [device_id for device_id, row in rows.items() if wanted.matches(facts(device_id, row))]
            by_sql = [row.id for row in selectors.devices(choice=DeviceChoice(filter=wanted))]
            assert by_sql == by_facts, wanted.text

    agree()


def test_filter__beside_a_join__means_the_devices_columns() -> None:
    fleet = enrol(FleetSimulator(3, model=MODEL))
    for device in fleet:
        services.record_check(device_id=device.device_id, check=device.check(NOW), now=NOW)
    wanted = Filter.parse(f"id != '{fleet.devices[1].device_id}' and \"onnx\" in capabilities.runtimes")
    choice = DeviceChoice(model=MODEL, filter=wanted)
    expected = [fleet.devices[0].device_id, fleet.devices[2].device_id]
    assert [row.id for row in selectors.devices(choice=choice)] == expected
    assert selectors.count_devices(choice=choice) == 2


def test_filter__list_of_devices__costs_no_further_statement() -> None:
    enrol(FleetSimulator(3, model=MODEL))
    with CaptureQueriesContext(connection) as plain:
        selectors.devices()
    wanted = Filter.parse("group('a') or attributes.site == 'x' or hw != 'y'")
    with CaptureQueriesContext(connection) as narrowed:
        selectors.devices(choice=DeviceChoice(filter=wanted))
    assert len(narrowed) == len(plain)


# ---------------------------------------------------------------- rules


def test_rule__with_a_filter__treats_only_whom_it_means() -> None:
    release = make_version("1")
    meant, other = enrol(FleetSimulator(2, model=MODEL)).devices
    rule_id = run_rule(release, filter=Filter.parse(f"id == '{meant.device_id}'"))
    assert decision(ask(meant)).value == "now"
    refused = ask(other)
    assert decision(refused).value == "nothing"
    assert "its filter does not match" in refused.binding.answers[MODEL].because
    (view,) = assignments.active_rules_for_ingest()
    found = selectors.briefs([meant.device_id, other.device_id])
    assert view.id == rule_id
    assert view.covers(found[meant.device_id])
    assert not view.covers(found[other.device_id])


def test_check__device_claims_another_site__what_enrolment_gave_counts() -> None:
    """A device cannot talk itself out of its site, or into another one's rollout."""
    release = make_version("1")
    (device,) = FleetSimulator(1, model=MODEL).devices
    services.enrol(device_id=device.device_id, hardware_class="edge-std", attributes={"site": "a"}, now=NOW)
    check = replace(device.check(NOW), attributes={"site": "b", "floor": "3"})
    services.record_check(device_id=device.device_id, check=check, now=NOW)
    run_rule(release, filter=Filter.parse("attributes.site == 'a' and attributes.floor == '3'"))
    told = answer_check(device_id=device.device_id, check=check, now=NOW)
    assert decision(told).value == "now"
    assert selectors.briefs([device.device_id])[device.device_id].attributes == {"site": "a", "floor": "3"}


# ---------------------------------------------------------------- the page of devices


def test_page_of_devices__filter__shows_whom_it_means_or_where_it_is_wrong(admin_client: Client) -> None:
    first, second = enrol(FleetSimulator(2, model=MODEL)).devices
    shown = admin_client.get("/devices", {"filter": f"id == '{first.device_id}'"}).content.decode()
    assert f"/devices/{first.device_id}" in shown
    assert f"/devices/{second.device_id}" not in shown
    wrong = admin_client.get("/devices", {"filter": "hw = <b>"}).content.decode()
    assert "column 4: expected" in wrong
    assert "hw = &lt;b&gt;\n   ^" in wrong
    assert f"/devices/{first.device_id}" not in wrong
