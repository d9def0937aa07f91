"""The demo's seeds put devices where its phases need them, by the bucketing that devices and server share."""

from typing import Any

import pytest

from device_client.wire.bucketing import BUCKETS, bucket, control_range, share_range
from fleet.demo import policies
from fleet.demo.fleet_plan import DEVICES, KILLED, SEED_BETTER, SEED_WORSE


@pytest.mark.parametrize("seed", [SEED_BETTER, SEED_WORSE])
@pytest.mark.parametrize(("share", "treated"), [(0.25, 4), (0.5, 8), (1.0, 16)])
def test_seed__in_each_phase__treats_as_many_devices_as_its_gates_need(seed: str, share: float, treated: int) -> None:
    assert sum(bucket(seed, device.id) in share_range(share) for device in DEVICES) == treated


@pytest.mark.parametrize("seed", [SEED_BETTER, SEED_WORSE])
def test_seed__control__keeps_eight_devices(seed: str) -> None:
    assert sum(bucket(seed, device.id) in control_range(0.5) for device in DEVICES) == 8


@pytest.mark.parametrize("seed", [SEED_BETTER, SEED_WORSE])
def test_first_phase__all_three_hardware_classes__are_in_it(seed: str) -> None:
    first = {device.hardware_class for device in DEVICES if bucket(seed, device.id) in share_range(0.25)}
    assert first == {"edge-std", "edge-max", "edge-tiny"}


def test_experiment__on_the_seed_of_the_better_version__has_four_candidates_and_eight_champions() -> None:
    """The arms of `policies.comparison`: the first quarter of the buckets, and the last half."""
    arms: Any = policies.comparison()["arms"]
    weights = {arm["name"]: arm["weight"] for arm in arms}
    share = float(str(policies.comparison()["share"]))
    candidate = round(share * weights["candidate"] / sum(weights.values()) * BUCKETS)
    control = BUCKETS - round(share * weights["champion"] / sum(weights.values()) * BUCKETS)
    places = [bucket(SEED_BETTER, device.id) for device in DEVICES]
    assert sum(place < candidate for place in places) == 4
    assert sum(place >= control for place in places) == 8


def test_killed_device__in_the_first_phase_of_the_better_version__takes_the_larger_variant() -> None:
    killed = next(device for device in DEVICES if device.id == KILLED)
    assert bucket(SEED_BETTER, KILLED) in share_range(0.25)
    assert killed.precisions == ("fp32",)
