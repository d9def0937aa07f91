"""The golden self-test: stored inputs, the outputs that the signed file must give, and how far off is still right.

The file of role `golden` is JSON: {inputs: {name: [sample, ...]}, outputs: {name: [sample, ...]}, atol, rtol}. Item i of
every list is sample i. A sample is fed with a leading batch dimension of one. The test catches a broken runtime, a
damaged load or a wrong accelerator, not a badly trained model: the expected answers are the model's own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from device_client.core.errors import SelfTestError
from device_client.wire.errors import WireError
from device_client.wire.fields import decode_object

MAX_GOLDEN_BYTES: Final = 16 * 2**20
MAX_SAMPLE_S: Final = 30.0  # slower than this per sample is a broken load, whatever the SLO says

Nested = Any  # numbers in lists of lists, as JSON gives them
Infer = Callable[[Mapping[str, Nested]], Mapping[str, Nested]]


@dataclass(frozen=True)
class Golden:
    """Samples: for each, inputs and expected outputs by name."""

    samples: tuple[tuple[Mapping[str, Nested], Mapping[str, Nested]], ...]
    atol: float
    rtol: float

    @classmethod
    def parse(cls, payload: bytes) -> "Golden":
        """Build from the file's bytes; raises `SelfTestError`."""
        try:
            fields = decode_object(payload, max_bytes=MAX_GOLDEN_BYTES)
            inputs, outputs = _columns(fields.raw("inputs"), "inputs"), _columns(fields.raw("outputs"), "outputs")
            atol, rtol = fields.number("atol", default=0.0), fields.number("rtol", default=0.0)
        except WireError as error:
            raise SelfTestError(f"golden samples: {error}") from error
        counts = {len(column) for column in (*inputs.values(), *outputs.values())}
        if len(counts) != 1 or counts == {0}:
            raise SelfTestError(f"expected one or more samples in equally long lists, got lengths {sorted(counts)}")
        return cls(
            tuple(
                (
                    {name: column[i] for name, column in inputs.items()},
                    {name: column[i] for name, column in outputs.items()},
                )
                for i in range(counts.pop())
            ),
            atol,
            rtol,
        )


def _columns(value: object, what: str) -> dict[str, Sequence[Nested]]:
    if not isinstance(value, dict) or not value or not all(isinstance(column, list) for column in value.values()):
        raise SelfTestError(f"golden samples: expected {what} as an object of lists, got {type(value).__name__}")
    return value


def examine(golden: Golden, infer: Infer, elapsed_s: Callable[[], float]) -> None:
    """Ask every sample; raises `SelfTestError` at the first answer that is wrong, not finite or far too slow.

    `infer` maps one sample's inputs to outputs as flat or nested lists; `elapsed_s` reads a monotonic clock.
    """
    answers = []
    for index, (inputs, expected) in enumerate(golden.samples):
        before = elapsed_s()
        outputs = infer(inputs)
        took = elapsed_s() - before
        if took > MAX_SAMPLE_S:
            raise SelfTestError(
                f"sample {index}: expected an answer within {MAX_SAMPLE_S:g} s, got one after {took:.1f} s"
            )
        for name, wanted in expected.items():
            if name not in outputs:
                raise SelfTestError(f"sample {index}: expected an output {name!r}, got {sorted(outputs)}")
            got = flatten(outputs[name])
            _compare(golden, index, name, flatten(wanted), got)
            answers.append((name, tuple(got)))
    _refuse_constant(golden, answers)


def _compare(golden: Golden, index: int, name: str, wanted: list[float], got: list[float]) -> None:
    if len(wanted) != len(got):
        raise SelfTestError(f"sample {index}, {name}: expected {len(wanted)} numbers, got {len(got)}")
    for place, (want, have) in enumerate(zip(wanted, got, strict=True)):
        if not math.isfinite(have) or abs(have - want) > golden.atol + golden.rtol * abs(want):
            raise SelfTestError(
                f"sample {index}, {name}[{place}]: expected {want:.6g} within {golden.atol:g} + {golden.rtol:g}x, got {have:.6g}"
            )


def _refuse_constant(golden: Golden, answers: list[tuple[str, tuple[float, ...]]]) -> None:
    """Different samples with one and the same answer to each are a dead model, unless that is what was signed."""
    expected = {(name, tuple(flatten(want))) for _, outputs in golden.samples for name, want in outputs.items()}
    names = {name for name, _ in answers}
    if len(expected) > len(names) and len(set(answers)) == len(names):
        raise SelfTestError("expected different answers to different samples, got the same answer to all")


def flatten(value: Nested) -> list[float]:
    """The numbers of nested lists in order."""
    if isinstance(value, (int, float)):
        return [float(value)]
    flat: list[float] = []
    for item in value:
        flat.extend(flatten(item))
    return flat
