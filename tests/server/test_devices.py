"""Devices: enrolment, attestation, and reports that come twice or in the wrong order."""

from dataclasses import replace

import pytest

from device_client.wire.bundles import Contract, Tensor
from device_client.wire.messages import MessageKey, RunningModel, StateReport
from device_client.wire.states import UpdateState
from fleet.apps.devices import selectors, services
from fleet.apps.devices.records import DeviceChoice
from fleet.domain.errors import ForbiddenError, NotFoundError
from tests.fakes.fleet_simulator import CAPABILITIES, FleetSimulator, SimulatedDevice, shuffled
from tests.server.catalogue import MODEL, NOW, later

pytestmark = pytest.mark.django_db

DIGEST_1, DIGEST_2 = "1" * 64, "2" * 64
CONTRACT = Contract({"image": Tensor("float32", (1, 64))}, {"scores": Tensor("float32", (1, 10))})


def enrolled(size: int = 1, classes: tuple[str, ...] = ("edge-std",)) -> list[SimulatedDevice]:
    fleet = FleetSimulator(size, model=MODEL, classes=classes)
    for device in fleet:
        services.enrol(device_id=device.device_id, hardware_class=device.hardware_class, attributes={}, now=NOW)
    return fleet.devices


def report(state: UpdateState, seq: int, *, active: str = DIGEST_1, boot: str = "a" * 16) -> StateReport:
    return StateReport(
        key=MessageKey(boot, seq),
        at=int(NOW.timestamp()),
        model=MODEL,
        version="2",
        digest=DIGEST_2,
        rollout="r-0123456789ab",
        revision=2,
        state=state,
        active_version="1" if active == DIGEST_1 else "2",
        active_digest=active,
    )


def test_enrol__twice__renews_and_keeps_the_device() -> None:
    (device,) = enrolled()
    services.record_presence(device_id=device.device_id, online=True, client_version="1.2", now=later(1))
    services.enrol(device_id=device.device_id, hardware_class="edge-big", attributes={"site": "x"}, now=later(2))
    found = selectors.device(device.device_id)
    assert (found.hardware_class, found.attributes, found.client_version) == ("edge-big", {"site": "x"}, "1.2")


def test_enrol__revoked__is_refused() -> None:
    (device,) = enrolled()
    services.set_state(device_id=device.device_id, state="revoked", now=NOW)
    with pytest.raises(ForbiddenError) as refused:
        services.enrol(device_id=device.device_id, hardware_class="x", attributes={}, now=NOW)
    assert refused.value.code == "device_revoked"
    assert selectors.device(device.device_id).hardware_class == "edge-std"


def test_record_check__says_what_runs__is_attested() -> None:
    (device,) = enrolled()
    device.running = RunningModel(MODEL, "1", DIGEST_1, "3" * 64, 4, UpdateState.COMMITTED)
    services.record_check(device_id=device.device_id, check=device.check(later(5)), now=later(5))
    found = selectors.device(device.device_id)
    assert found.online
    assert found.last_check_at == found.last_seen_at == later(5)
    assert (found.models[0].active_digest, found.models[0].active_since_at) == (DIGEST_1, later(5))
    assert selectors.weights_in_use() == {"3" * 64}
    assert [(row.version, row.count, row.online) for row in selectors.running_counts(MODEL)] == [("1", 1, 1)]


@pytest.mark.parametrize("state", ["quarantined", "revoked", None])
def test_record_check__not_active__stores_nothing(state: str | None) -> None:
    (device,) = enrolled()
    device_id = device.device_id if state else "never-enrolled"
    if state:
        services.set_state(device_id=device_id, state=state, now=NOW)
    with pytest.raises(ForbiddenError):
        services.record_check(device_id=device_id, check=device.check(NOW), now=NOW)
    assert selectors.device(device.device_id).models == ()
    assert selectors.device(device.device_id).last_seen_at is None


@pytest.mark.parametrize(
    ("made_s_before", "state"),
    [(0, "committed"), (3, "committed"), (7_200, "probation"), (-1, "probation")],
    ids=["same second", "before the report", "before a clock was set back", "after the report"],
)
def test_record_check__comes_after_a_report_that_was_made_later__the_report_holds(
    *, made_s_before: int, state: str
) -> None:
    (device,) = enrolled()
    committed = replace(report(UpdateState.COMMITTED, 9, active=DIGEST_2), at=int(later(60).timestamp()))
    services.record_states(reports=[(device.device_id, committed)], weights={}, now=later(61))
    device.running = RunningModel(MODEL, "1", DIGEST_1, "3" * 64, 4, UpdateState.PROBATION)
    check = replace(device.check(later(60)), clock=committed.at - made_s_before)
    services.record_check(device_id=device.device_id, check=check, now=later(65))
    assert selectors.device(device.device_id).models[0].state == state


def test_record_check__device_names_its_own_attributes__enrolled_ones_win() -> None:
    (device,) = enrolled()
    services.enrol(device_id=device.device_id, hardware_class="edge-std", attributes={"site": "real"}, now=NOW)
    check = replace(device.check(NOW), attributes={"site": "claimed", "room": "2"})
    services.record_check(device_id=device.device_id, check=check, now=NOW)
    assert selectors.device(device.device_id).attributes == {"site": "real", "room": "2"}


def test_record_state__any_order_with_replays__ends_in_the_same_state() -> None:
    story = [
        report(UpdateState.ASSIGNED, 1),
        report(UpdateState.DOWNLOADING, 2),
        report(UpdateState.PROBATION, 3, active=DIGEST_2),
        report(UpdateState.COMMITTED, 4, active=DIGEST_2),
    ]
    ends = set()
    for order in range(8):
        device_id = f"dev-{order}"
        services.enrol(device_id=device_id, hardware_class="edge-std", attributes={}, now=NOW)
        told = [
            services.record_states(reports=[(device_id, item)], weights={DIGEST_2: "9" * 64}, now=later(number))
            for number, item in enumerate(shuffled(story + story, order))
        ]
        assert sum(len(new) for new in told) == len(story)
        replayed = [(device_id, item) for item in shuffled(story, order + 1)]
        assert services.record_states(reports=replayed, weights={}, now=later(99)) == ()
        found = selectors.device(device_id).models[0]
        ends.add((found.state, found.active_digest, found.weights_sha256, found.target_version, found.revision))
        assert len(selectors.timeline(device_id)) == len(story)
    assert ends == {("committed", DIGEST_2, "9" * 64, "", 2)}


def test_record_state__new_boot__begins_again() -> None:
    (device,) = enrolled()
    story = [report(UpdateState.COMMITTED, 90), report(UpdateState.ASSIGNED, 1, boot="0" * 16)]
    new = services.record_states(reports=[(device.device_id, item) for item in story], weights={}, now=NOW)
    assert [item for _, item in new] == story
    found = selectors.device(device.device_id).models[0]
    assert (found.state, found.target_version) == ("assigned", "2")


def test_record_state__clock_beyond_every_calendar__is_stored() -> None:
    (device,) = enrolled()
    wrong = replace(report(UpdateState.IDLE, 1), at=2**53 - 1)
    assert services.record_states(reports=[(device.device_id, wrong)], weights={}, now=NOW)
    assert selectors.timeline(device.device_id)[0].at == NOW


def test_presence__last_will__is_no_sign_of_life() -> None:
    (device,) = enrolled()
    services.record_presence(device_id=device.device_id, online=True, client_version="", now=later(1))
    services.record_presence(device_id=device.device_id, online=False, client_version="", now=later(9))
    found = selectors.device(device.device_id)
    assert not found.online
    assert found.last_seen_at == later(1)


def test_touch__older_than_known__does_not_turn_time_back() -> None:
    (device,) = enrolled()
    services.touch(device_ids=[device.device_id], now=later(9))
    services.touch(device_ids=[device.device_id], now=later(3))
    assert selectors.device(device.device_id).last_seen_at == later(9)


def test_devices__filters__choose_and_page() -> None:
    fleet = enrolled(6, ("edge-std", "edge-big"))
    services.set_group(name="canaries", device_ids=[fleet[0].device_id, fleet[2].device_id], now=NOW)
    services.set_state(device_id=fleet[1].device_id, state="quarantined", now=NOW)
    big = DeviceChoice(hardware_class="edge-big")
    assert [row.id for row in selectors.devices(choice=big)] == [
        fleet[1].device_id,
        fleet[3].device_id,
        fleet[5].device_id,
    ]
    assert [row.id for row in selectors.devices(choice=big, after=fleet[1].device_id, limit=1)] == [fleet[3].device_id]
    assert selectors.count_devices(choice=DeviceChoice(group="canaries")) == 2
    assert selectors.count_devices(choice=DeviceChoice(search="sim-0000", state="active")) == 5
    assert selectors.groups() == {"canaries": 2}
    assert selectors.briefs([fleet[0].device_id])[fleet[0].device_id].groups == {"canaries"}


def test_set_group__unknown_device__changes_nothing() -> None:
    fleet = enrolled(1)
    services.set_group(name="g", device_ids=[fleet[0].device_id], now=NOW)
    with pytest.raises(NotFoundError):
        services.set_group(name="g", device_ids=["nobody-here"], now=NOW)
    assert [row.id for row in selectors.devices(choice=DeviceChoice(group="g"))] == [fleet[0].device_id]


def test_weights_groups__alike_devices__are_one_group_whatever_their_memory() -> None:
    first, second, tiny, idle = enrolled(4)
    for device, precisions, ram in ((first, (), 1), (second, (), 2), (tiny, ("int8",), 1), (idle, (), 1)):
        device.capabilities = replace(
            CAPABILITIES, codecs=("tensor1", "bsdiff4"), precisions=precisions, ram_bytes=ram, disk_bytes=ram
        )
        weights = "" if device is idle else "3" * 64
        device.running = RunningModel(MODEL, "1", DIGEST_1, weights, 4, UpdateState.COMMITTED, contract=CONTRACT)
        services.record_check(device_id=device.device_id, check=device.check(later(5)), now=later(5))
    groups = sorted(selectors.weights_groups(MODEL), key=lambda group: group.count)
    assert [(group.weights_sha256, group.count) for group in groups] == [("3" * 64, 1), ("3" * 64, 2)]
    expected = replace(first.capabilities, ram_bytes=0, disk_bytes=0, arch="", client_version="")
    assert groups[1].capabilities == expected
    assert groups[0].capabilities == replace(expected, precisions=("int8",))
    assert groups[0].contract == groups[1].contract == CONTRACT
    assert list(selectors.weights_groups("vision.other")) == []
