"""Parameters that stand for many elements each: any grouping, and no more memory than the elements need."""

import tracemalloc

import numpy as np
import pytest

from device_client.wire.tensor1.format import Instruction, Kind, Predictor
from device_client.wire.tensor1.predictors import _spread


def instruction(inner: int, available: int) -> Instruction:
    return Instruction(Kind.DELTA, 0, predictor=Predictor.ROW_SCALE, scalars=(inner, available))


@pytest.mark.parametrize("inner", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("available", [2, 3, 5])
def test_spread__any_grouping__each_elements_own_parameter(inner: int, available: int) -> None:
    values = np.arange(available, dtype=np.float32)
    for first in range(25):
        for count in range(1, 25):
            wanted = [values[(number // inner) % available] for number in range(first, first + count)]
            assert _spread(values, instruction(inner, available), first, count).tolist() == wanted


def test_spread__claims_to_stand_for_more_than_there_are__takes_what_the_elements_need() -> None:
    values = np.arange(2, dtype=np.float32)
    tracemalloc.start()
    assert _spread(values, instruction(1 << 62, 2), 0, 3).tolist() == [0, 0, 0]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1 << 20
