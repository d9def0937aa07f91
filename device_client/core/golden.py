"""The golden self-test: stored inputs, the outputs that the signed file must give, and how far off is still right.

The file of role `golden` is JSON: {inputs: {name: [sample, ...]}, outputs: {name: [sample, ...]}, atol, rtol}. Item i of
every list is sample i. A sample is fed with a leading batch dimension of one; expected outputs are numbers in lists of
lists. The test catches a broken runtime, a damaged load or a wrong accelerator, not a badly trained model: the expected
answers are the model's own. `wire.golden` bounds what such a file may hold.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from device_client.core.errors import SelfTestError
from device_client.wire.errors import WireError
from device_client.wire.golden import decode_golden

MAX_DEPTH: Final = 16  # dimensions of a sample; no runtime here takes tensors of more
MAX_SAMPLE_S: Final = 30.0  # slower than this per sample is a broken load, whatever the SLO says

Nested = Any  # numbers in lists of lists, as JSON gives them
Infer = Callable[[Mapping[str, Nested]], Mapping[str, Nested]]


@dataclass(frozen=True)
class Golden:
    """Samples: inputs and expected outputs by name, one in each column for each of `count` samples."""

    inputs: Mapping[str, Sequence[Nested]]
    outputs: Mapping[str, Sequence[Nested]]
    count: int
    atol: float
    rtol: float

    @classmethod
    def parse(cls, payload: bytes) -> "Golden":
        """Build from the file's bytes; raises `SelfTestError`."""
        try:
            fields = decode_golden(payload)
            inputs, outputs = _columns(fields.raw("inputs"), "inputs"), _columns(fields.raw("outputs"), "outputs")
            atol, rtol = fields.number("atol", default=0.0), fields.number("rtol", default=0.0)
        except WireError as error:
            raise SelfTestError(f"golden samples: {error}") from error
        for name, column in outputs.items():
            _require_numbers(column, name)
        counts = {len(column) for column in (*inputs.values(), *outputs.values())}
        if len(counts) != 1 or counts == {0}:
            raise SelfTestError(f"expected one or more samples in equally long lists, got lengths {sorted(counts)[:9]}")
        return cls(inputs, outputs, counts.pop(), atol, rtol)


def _columns(value: object, what: str) -> dict[str, Sequence[Nested]]:
    if not isinstance(value, dict) or not value or not all(isinstance(column, list) for column in value.values()):
        raise SelfTestError(f"golden samples: expected {what} as an object of lists, got {type(value).__name__}")
    return value


def _require_numbers(column: Sequence[Nested], name: str) -> None:
    rest = [(item, MAX_DEPTH) for item in column]
    while rest:
        item, depth = rest.pop()
        if isinstance(item, list) and depth:
            rest += [(inner, depth - 1) for inner in item]
        elif not isinstance(item, (int, float)):
            expected = f"expected numbers in at most {MAX_DEPTH} lists of lists as outputs"
            raise SelfTestError(f"golden samples, {name}: {expected}, got {type(item).__name__}")


def examine(golden: Golden, infer: Infer, elapsed_s: Callable[[], float]) -> None:
    """Ask every sample; raises `SelfTestError` at the first answer that is wrong, not finite or far too slow.

    `infer` maps one sample's inputs to outputs as flat or nested lists; `elapsed_s` reads a monotonic clock.
    """
    first: dict[str, tuple[list[float], list[float]]] = {}
    varied_wanted = varied_got = False
    for index in range(golden.count):
        before = elapsed_s()
        outputs = infer({name: column[index] for name, column in golden.inputs.items()})
        took = elapsed_s() - before
        if took > MAX_SAMPLE_S:
            raise SelfTestError(
                f"sample {index}: expected an answer within {MAX_SAMPLE_S:g} s, got one after {took:.1f} s"
            )
        for name, column in golden.outputs.items():
            if name not in outputs:
                raise SelfTestError(f"sample {index}: expected an output {name!r}, got {sorted(outputs)}")
            wanted, got = flatten(column[index]), flatten(outputs[name])
            _compare(golden, index, name, wanted, got)
            first_wanted, first_got = first.setdefault(name, (wanted, got))
            varied_wanted |= wanted != first_wanted
            varied_got |= got != first_got
    # A dead model gives one and the same answer to different samples, unless that is what was signed.
    if varied_wanted and not varied_got:
        raise SelfTestError("expected different answers to different samples, got the same answer to all")


def _compare(golden: Golden, index: int, name: str, wanted: list[float], got: list[float]) -> None:
    if len(wanted) != len(got):
        raise SelfTestError(f"sample {index}, {name}: expected {len(wanted)} numbers, got {len(got)}")
    for place, (want, have) in enumerate(zip(wanted, got, strict=True)):
        if not math.isfinite(have) or abs(have - want) > golden.atol + golden.rtol * abs(want):
            raise SelfTestError(
                f"sample {index}, {name}[{place}]: expected {want:.6g} within {golden.atol:g} + {golden.rtol:g}x, got {have:.6g}"
            )


def flatten(value: Nested) -> list[float]:
    """The numbers of nested lists in order."""
    if isinstance(value, (int, float)):
        return [float(value)]
    flat: list[float] = []
    for item in value:
        flat.extend(flatten(item))
    return flat
