"""Which patches are planned: for whom, in which codec, in which order, within which budget."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_client.wire.bundles import Contract, Tensor
from device_client.wire.delta import Codec
from fleet.domain.delta_plan import (
    Budget,
    DeltaPlan,
    Demand,
    Group,
    demands,
    estimated_cpu_s,
    plan,
)
from fleet.domain.delta_sizes import BSDIFF4_MAX_BYTES, SMALL_BYTES
from tests.domain.releases import CAPABLE, build

FULL = frozenset(Codec)
PORTABLE = frozenset({Codec.TENSOR1_PORTABLE, Codec.BSDIFF4})
OLDEST = frozenset({Codec.BSDIFF4})
PLENTY = Budget(cpu_s=1e9, new_bytes=10**15)
A, B, NEW, NEW8 = "a" * 64, "b" * 64, "c" * 64, "d" * 64
SMALL = 1_000_000
LARGE = SMALL_BYTES + 1


def planned(*wanted: Demand, size: int = SMALL, budget: Budget = PLENTY) -> DeltaPlan:
    return plan(wanted, {A: size, B: size, NEW: size, NEW8: size}, budget)


def codecs(made: DeltaPlan) -> list[Codec]:
    return [item.codec for item in made.builds]


# ---------------------------------------------------------------- who goes where


def test_demands__devices_that_take_other_variants__each_go_to_what_they_would_get() -> None:
    fp32, int8 = build("2", "onnx-fp32-any"), build("2", "onnx-int8-any")
    any_device = replace(CAPABLE, codecs=("tensor1", "bsdiff4"))
    tiny = replace(any_device, precisions=("int8",))
    asked = demands(
        [Group(A, "edge", any_device, 3), Group(A, "edge", tiny, 2), Group(B, "edge", tiny, 1)], [fp32, int8]
    )
    to32, to8 = fp32.manifest.weights.sha256, int8.manifest.weights.sha256
    assert {(item.old_sha256, item.new_sha256): item.devices for item in asked} == {
        (A, to32): 3,
        (A, to8): 2,  # the class that used to run fp32 now takes int8: a pair across variants
        (B, to8): 1,
    }


def test_demands__same_pair_and_codecs__are_counted_together_whatever_else_differs() -> None:
    group = Group(A, "edge", replace(CAPABLE, codecs=("bsdiff4", "tensor1")), 3)
    other = Group(A, "edge", replace(CAPABLE, codecs=("tensor1", "bsdiff4"), runtimes={"onnx": "1.17"}), 4)
    (asked,) = demands([group, other], [build("2")])
    assert asked.devices == 7
    assert asked.codecs == frozenset({Codec.TENSOR1, Codec.BSDIFF4})


@pytest.mark.parametrize(
    "group",
    [
        Group("", "edge", replace(CAPABLE, codecs=("tensor1",)), 3),
        Group(A, "edge", replace(CAPABLE, codecs=("tensor1",)), 0),
        Group(A, "edge", replace(CAPABLE, codecs=()), 3),
        Group(A, "edge", replace(CAPABLE, codecs=("zstd", "tensor9")), 3),
        Group(A, "edge", replace(CAPABLE, codecs=("tensor1",), runtimes={}), 3),
        Group(build("2").manifest.weights.sha256, "edge", replace(CAPABLE, codecs=("tensor1",)), 3),
        Group(
            A,
            "edge",
            replace(CAPABLE, codecs=("tensor1",)),
            3,
            contract=Contract(inputs={"image": Tensor("float32", (1,))}),
        ),
    ],
    ids=["runs nothing", "no devices", "no codec", "unknown codecs", "no variant fits", "has it", "other contract"],
)
def test_demands__nobody_to_patch__ask_for_nothing(group: Group) -> None:
    assert demands([group], [build("2")]) == ()


# ---------------------------------------------------------------- in which codec


def test_plan__small_file__both_codecs_and_the_best_one_first() -> None:
    made = planned(Demand(A, NEW, FULL, 5))
    assert codecs(made) == [Codec.TENSOR1, Codec.BSDIFF4]
    assert [(item.devices, item.depending) for item in made.builds] == [(5, 5), (5, 0)]


def test_plan__large_file__no_second_candidate() -> None:
    assert codecs(planned(Demand(A, NEW, FULL, 5), size=LARGE)) == [Codec.TENSOR1]


def test_plan__file_of_the_bound_itself__is_small() -> None:
    assert Codec.BSDIFF4 in codecs(planned(Demand(A, NEW, FULL, 5), size=SMALL_BYTES))


def test_plan__only_devices_without_pcodec__portable_only() -> None:
    assert codecs(planned(Demand(A, NEW, PORTABLE, 5), size=LARGE)) == [Codec.TENSOR1_PORTABLE]


def test_plan__both_kinds_of_devices__both_kinds_for_those_who_need_them() -> None:
    made = planned(Demand(A, NEW, FULL, 5), Demand(A, NEW, PORTABLE, 2), size=LARGE)
    assert {item.codec: item.devices for item in made.builds} == {Codec.TENSOR1: 5, Codec.TENSOR1_PORTABLE: 2}


def test_plan__large_file_and_devices_with_bsdiff4_alone__built_for_them() -> None:
    made = planned(Demand(A, NEW, FULL, 5), Demand(A, NEW, OLDEST, 2), size=LARGE)
    assert {item.codec: item.depending for item in made.builds} == {Codec.TENSOR1: 5, Codec.BSDIFF4: 2}


def test_plan__file_beyond_what_bsdiff4_can_take__left_out_with_the_sizes() -> None:
    made = planned(Demand(A, NEW, OLDEST, 2), size=BSDIFF4_MAX_BYTES + 1)
    assert made.builds == ()
    assert [item.reason for item in made.left_out] == [
        f"bsdiff4 takes files of at most {BSDIFF4_MAX_BYTES} bytes, this one has {BSDIFF4_MAX_BYTES + 1}"
    ]


def test_plan__no_codec_at_all__nothing() -> None:
    assert planned(Demand(A, NEW, frozenset(), 2)) == DeltaPlan((), ())


# ---------------------------------------------------------------- in which order, within which budget


def test_plan__what_more_devices_depend_on__comes_first_and_candidates_last() -> None:
    made = planned(Demand(A, NEW, FULL, 1), Demand(B, NEW, FULL, 9))
    assert [(item.old_sha256, item.codec) for item in made.builds] == [
        (B, Codec.TENSOR1),
        (A, Codec.TENSOR1),
        (B, Codec.BSDIFF4),
        (A, Codec.BSDIFF4),
    ]


def test_plan__few_devices_with_large_files__before_many_with_small_ones_if_more_bytes_are_at_stake() -> None:
    sizes = {A: LARGE, NEW: LARGE, B: 1_000, NEW8: 1_000}
    made = plan([Demand(B, NEW8, FULL, 100), Demand(A, NEW, FULL, 10)], sizes, PLENTY)
    assert made.builds[0].old_sha256 == A


def test_plan__no_cpu_for_all__the_urgent_ones_and_what_still_fits() -> None:
    first, second = (estimated_cpu_s(Codec.TENSOR1, size, size) for size in (64 * LARGE, LARGE))
    sizes = {A: 64 * LARGE, NEW: 64 * LARGE, B: LARGE, NEW8: LARGE}
    made = plan([Demand(A, NEW, FULL, 9), Demand(B, NEW8, FULL, 1)], sizes, Budget(cpu_s=first - 1, new_bytes=10**15))
    assert second < first - 1
    assert [item.old_sha256 for item in made.builds] == [B]
    (out,) = made.left_out
    assert (out.wanted.old_sha256, out.reason) == (
        A,
        f"takes about {first:.0f} s of CPU, {first - 1:.0f} s of the budget are left",
    )


def test_plan__no_bytes_for_all__says_so() -> None:
    made = planned(Demand(A, NEW, FULL, 9), Demand(B, NEW, FULL, 1), size=LARGE, budget=Budget(1e9, LARGE))
    assert [item.old_sha256 for item in made.builds] == [A]
    assert [item.reason for item in made.left_out] == [f"is for {LARGE} bytes, 0 bytes of the budget are left"]


def test_plan__known_patches__not_again_and_paid_for() -> None:
    wanted = (Demand(A, NEW, FULL, 9), Demand(B, NEW, FULL, 1))
    sizes = dict.fromkeys((A, B, NEW), LARGE)
    made = plan(wanted, sizes, Budget(1e9, LARGE), frozenset({(A, NEW, Codec.TENSOR1)}))
    assert made.builds == ()
    assert [item.wanted.old_sha256 for item in made.left_out] == [B]


def test_plan__old_file_that_nobody_released__passed_over() -> None:
    assert plan([Demand("e" * 64, NEW, FULL, 9)], {NEW: SMALL}, PLENTY) == DeltaPlan((), ())


# ---------------------------------------------------------------- whatever comes

_SHA = st.sampled_from([A, B, NEW, NEW8])
_DEMANDS = st.lists(
    st.builds(Demand, _SHA, _SHA, st.sets(st.sampled_from(list(Codec))).map(frozenset), st.integers(0, 1_000)),
    max_size=12,
)
_SIZES = st.dictionaries(_SHA, st.integers(1, 80 << 20), max_size=4)
_BUDGET = st.builds(Budget, st.floats(0, 2_000), st.integers(0, 400 << 20))


@settings(deadline=None)
@given(_DEMANDS, _SIZES, _BUDGET, st.randoms(use_true_random=False))
def test_plan__anything__within_the_budget_complete_and_the_same_in_any_order(
    wanted: list[Demand], sizes: dict[str, int], budget: Budget, dice: object
) -> None:
    made = plan(wanted, sizes, budget)
    shuffled = list(wanted)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan(shuffled, sizes, budget) == made
    assert sum(item.cpu_s for item in made.builds) <= budget.cpu_s + 1e-6
    assert sum(item.new_bytes for item in made.builds) <= budget.new_bytes
    listed = [*made.builds, *(item.wanted for item in made.left_out)]
    keys = [(item.old_sha256, item.new_sha256, item.codec) for item in listed]
    assert len(keys) == len(set(keys))
    assert all(item.reason for item in made.left_out)
    served: dict[tuple[str, str], set[Codec]] = {}
    for item in listed:
        served.setdefault((item.old_sha256, item.new_sha256), set()).add(item.codec)
        assert 0 <= item.depending <= item.devices
    for demand in wanted:
        pair = (demand.old_sha256, demand.new_sha256)
        if demand.devices and demand.codecs and sizes.keys() >= set(pair):
            assert served[pair] & demand.codecs, "every device that can apply something is planned for, or told why not"
    waits = [item.depending == 0 for item in made.builds]
    assert waits == sorted(waits)
    assert plan(wanted, sizes, budget, frozenset(keys)) == DeltaPlan((), ())
