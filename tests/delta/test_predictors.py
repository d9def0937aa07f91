"""Parameters that stand for many elements each: any grouping, any piece, and no more work than the elements need."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from device_client.wire.tensor1.elements import Element
from device_client.wire.tensor1.format import Field, Instruction, Kind, Predictor
from device_client.wire.tensor1.predictors import _spread, predict
from tests.delta.patches import weights


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


@pytest.mark.parametrize("columns", [5, 64, 300])
def test_low_rank__any_piece__as_of_the_whole(columns: int) -> None:
    rank, rows = 3, 300 // columns * 2
    parameters = weights(1, rank * (columns + rows)).tobytes()
    old = weights(2, rows * columns)
    item = replace(instruction(rank, columns), predictor=Predictor.LOW_RANK, fields=(Field(Element.F32, 1),))
    item = replace(item, old_element=Element.F32)
    (whole,) = predict(item, parameters, old.tobytes(), 0, len(old))
    for first in range(0, len(old), 17):
        for count in (1, 2, columns - 1, columns, columns + 1, 2 * columns + 3):
            piece = old[first : first + count]
            (found,) = predict(item, parameters, piece.tobytes(), first, len(piece))
            assert np.array_equal(found, whole[first : first + count])


def test_low_rank__rows_much_longer_than_a_piece__computes_the_piece_only() -> None:
    columns = 1 << 20
    item = replace(instruction(1, columns), predictor=Predictor.LOW_RANK, fields=(Field(Element.F32, 1),))
    item = replace(item, old_element=Element.F32)
    parameters, piece = bytes(4 * (columns + 1)), bytes(4 * 1024)
    tracemalloc.start()
    predict(item, parameters, piece, 777, 1024)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 << 10


def test_quantised__parameters_of_many_channels__converts_those_of_the_piece_only() -> None:
    channels = 1 << 18
    item = replace(instruction(1, channels), predictor=Predictor.QUANTISE, fields=(Field(Element.I8, 1),))
    item = replace(item, old_element=Element.F32)
    parameters = np.ones(2 * channels, dtype="<f4").tobytes()
    tracemalloc.start()
    predict(item, parameters, bytes(4 * 1024), 777, 1024)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 256 << 10
