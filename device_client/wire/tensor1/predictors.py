"""What a tensor's new numbers are guessed to be. Elementwise IEEE arithmetic only: every machine guesses the same bits.

Nothing here sums along an axis, calls BLAS or fuses a multiply with an add, because those round differently from one
machine to the next (`products` does where there is nothing to round). `w` is the old number as float32, `i` the index of
the parameter of an element:
`i = (element // inner) % count`.

| predictor | scalars | parameters | guess |
|---|---|---|---|
| NOTHING | | | 0 |
| SAME | | | the old number's bits |
| CAST | | | w, rounded to nearest even |
| DECAY | k, n, k, n ... | | w, n times multiplied by 1 - k 2**-24, for each pair in turn |
| PRUNE | bits of t (float32), keep_sign | | w, or 0 where abs(w) <= t (with w's sign if keep_sign) |
| ROW_SCALE | inner, count | s: f32[count] | w * s[i] |
| LOW_RANK | rank, columns | v: f32[rank, columns], u: f32[rows, rank] | w + (u[r,0] v[0,c] + u[r,1] v[1,c] + ...) |
| QUANTISE | inner, count | s: f32[count], z: i32[count] | rint(w / s[i]) + z[i], clipped |
| PACK | kind | | blocks of ggml out of 32 w each: see `packing` |
| SCALES | 1, count | s: f32[count] | s[i] |
| REQUANTISE | inner, count | s: f32[count], a: i32[count], z: i32[count] | rint((q - a[i]) * s[i]) + z[i], clipped |
"""

from __future__ import annotations

from typing import Any, Final, cast

from device_client.wire.tensor1.elements import Content, Element, Integers, bits_of, integers, ordered, reals
from device_client.wire.tensor1.errors import PatchLimitError, PatchPayloadError, PatchTableError
from device_client.wire.tensor1.format import MAX_MULTIPLIES, MAX_RANK, PACKED_ELEMENTS, Instruction, Predictor
from device_client.wire.tensor1.packing import FIELDS, Packing, pack
from device_client.wire.tensor1.products import product_of

_PLAIN: Final = frozenset({Predictor.NOTHING, Predictor.SAME})
_FLOAT_TO_FLOAT: Final = frozenset(
    {Predictor.CAST, Predictor.DECAY, Predictor.PRUNE, Predictor.ROW_SCALE, Predictor.LOW_RANK}
)
# What may read its old numbers in another order than they lie in.
ELEMENTWISE: Final = _FLOAT_TO_FLOAT | {Predictor.QUANTISE, Predictor.REQUANTISE}
_WHOLE: Final = {
    Element.I8: (-128, 127),
    Element.U8: (0, 255),
    Element.I16: (-32768, 32767),
    Element.U16: (0, 65535),
    Element.I32: (-(1 << 31), (1 << 31) - 1),
}
_STEP: Final = 2.0**-24
_MAX_DECAY: Final = 1 << 16
# In parts, so that what lies between floats and bytes takes little memory and stays in the cache.
_PART: Final = 1 << 15


def check(item: Instruction) -> None:
    """Raise `PatchTableError` or `PatchLimitError` unless `predict` can follow this DELTA instruction."""
    if item.predictor in _PLAIN:
        if item.old_element is not None or item.scalars or item.parameter_bytes:
            raise PatchTableError(f"expected {item.predictor.name} to need nothing, got {item}")
        return
    new = item.fields[0].element
    old = item.old_element
    if item.predictor is Predictor.SCALES:
        if len(item.fields) != 1 or item.fields[0].count != 1 or not new.is_float or old is not None:
            raise PatchTableError(f"expected SCALES to be plain floats of their own, got {item.fields}")
        if item.length // new.width != _count_of_scales(item) or item.parameter_bytes != 4 * item.scalars[1]:
            raise PatchTableError(f"expected parameters that fit {item.scalars}, got {item.parameter_bytes} bytes")
        return
    if item.predictor is Predictor.PACK:
        kinds = [kind for kind in Packing if item.scalars == (kind,)]
        if not kinds or item.fields != FIELDS[kinds[0]] or old is None or not old.is_float or item.parameter_bytes:
            raise PatchTableError(f"expected blocks of a known kind out of floats, got {item.scalars} {item.fields}")
        return
    if len(item.fields) != 1 or item.fields[0].count != 1 or old is None:
        raise PatchTableError(f"expected {item.predictor.name} on plain numbers from stated ones, got {item.fields}")
    if item.predictor in _FLOAT_TO_FLOAT:
        kinds_fit = new.is_float and old.is_float
    else:
        kinds_fit = new in _WHOLE and (old.is_float if item.predictor is Predictor.QUANTISE else old in _WHOLE)
    if not kinds_fit:
        raise PatchTableError(f"expected {item.predictor.name} between fitting numbers, got {old.name} to {new.name}")
    if item.parameter_bytes != _parameter_bytes(item, item.length // new.width):
        raise PatchTableError(f"expected parameters that fit {item.scalars}, got {item.parameter_bytes} bytes")


def _parameter_bytes(item: Instruction, elements: int) -> int:
    """How many bytes of parameters the scalars ask for, once those are within limits."""
    scalars = item.scalars
    if item.predictor is Predictor.DECAY:
        if len(scalars) % 2 or not all(scalars[1::2]):
            raise PatchTableError(f"expected pairs of a step and how often, at least once, got {scalars}")
        if sum(scalars[1::2]) > MAX_MULTIPLIES or max(scalars[::2], default=0) > _MAX_DECAY:
            raise PatchLimitError(f"expected at most {MAX_MULTIPLIES} multiplies, got {scalars}")
        return 0
    if item.predictor is Predictor.CAST:
        return _of(scalars, 0, 0)
    if item.predictor is Predictor.PRUNE:
        return _of(scalars, 2, 0)
    _of(scalars, 2, 0)
    first, second = scalars
    if not first or not second:
        raise PatchTableError(f"expected positive scalars, got {scalars}")
    if item.predictor is Predictor.LOW_RANK:
        if first > MAX_RANK or elements % second:
            raise PatchLimitError(f"expected a rank of at most {MAX_RANK} and whole rows, got {scalars} for {elements}")
        if first * (second + elements // second) > elements:
            raise PatchLimitError(f"expected factors smaller than their product of {elements}, got {scalars}")
        return 4 * first * (second + elements // second)
    if second > elements:
        raise PatchLimitError(f"expected at most a parameter for each of {elements} numbers, got {second}")
    return second * {Predictor.ROW_SCALE: 4, Predictor.QUANTISE: 8, Predictor.REQUANTISE: 12}[item.predictor]


def _count_of_scales(item: Instruction) -> int:
    _of(item.scalars, 2, 0)
    inner, count = item.scalars
    return count if inner == 1 else -1


def _of(scalars: tuple[int, ...], count: int, result: int) -> int:
    if len(scalars) != count:
        raise PatchTableError(f"expected {count} scalars, got {len(scalars)}")
    return result


def predict(item: Instruction, parameters: Content, content: bytes, first: int, count: int) -> list[Integers]:
    """The guesses for `count` records from number `first` on, whose old bytes are `content`: ordered integers, by field."""
    import numpy as np

    if item.predictor is Predictor.SAME:
        return _same(item, content)
    if item.predictor is Predictor.SCALES:
        with np.errstate(all="ignore"):
            scales = np.frombuffer(parameters, dtype="<f4")[first : first + count]
            return [ordered(bits_of(scales, item.fields[0].element), item.fields[0].element)]
    old = item.old_element
    if old is None:
        raise PatchTableError(f"expected {item.predictor.name} to say what it predicts from")
    raw = integers(content, old)
    if item.predictor is Predictor.PACK:
        return _packed(item, reals(raw, old))
    new = item.fields[0].element
    # Numbers that overflow or are not numbers are guesses like any other.
    with np.errstate(all="ignore"):
        if item.predictor is Predictor.PRUNE:
            guess = _pruned(item, raw, old, new)
        elif item.predictor in _FLOAT_TO_FLOAT:
            guess = _float_guesses(item, parameters, raw, first)
        else:
            parts = range(0, len(raw), _PART) or (0,)
            guess = np.concatenate([_quantised(item, parameters, raw[at : at + _PART], first + at) for at in parts])
    return [ordered(guess, new)]


def _same(item: Instruction, content: bytes) -> list[Integers]:
    import numpy as np

    if len(item.fields) == 1:
        return [ordered(integers(content, item.fields[0].element), item.fields[0].element)]
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, item.record_bytes)
    guesses: list[Integers] = []
    position = 0
    for field in item.fields:
        run = np.ascontiguousarray(records[:, position : position + field.length])
        guesses.append(ordered(run.view(f"<i{field.element.width}").reshape(-1), field.element))
        position += field.length
    return guesses


def _packed(item: Instruction, weights: Any) -> list[Integers]:
    import numpy as np

    made = pack(Packing(item.scalars[0]), weights.reshape(-1, PACKED_ELEMENTS))
    return [
        ordered(np.ascontiguousarray(part).reshape(-1).view(f"<i{field.element.width}"), field.element)
        for part, field in zip(made, item.fields, strict=True)
    ]


def _float_guesses(item: Instruction, parameters: Content, raw: Integers, first: int) -> Integers:
    import numpy as np

    old, new = cast(Element, item.old_element), item.fields[0].element
    guesses = np.empty(len(raw), dtype=f"<i{new.width}")
    product = None
    unit = 1
    if item.predictor is Predictor.LOW_RANK:
        rank, unit = item.scalars
        product = product_of(parameters, rank, unit, first, len(raw))
    step = max(1, _PART // unit) * unit
    at = 0
    while at < len(raw):
        # As far as parts of whole rows reach.
        end = min(len(raw), at + step - (first + at) % step)
        weights = reals(raw[at:end], old)
        if product is not None:
            # Only of -0 it makes a difference which zero is added.
            in_order = weights.view(np.int32).min() == np.iinfo(np.int32).min
            weights = weights + product.elements(first + at, end - at, in_order=in_order)
        else:
            weights = _float_guess(item, parameters, weights, first + at)
        guesses[at:end] = bits_of(weights, new)
        at = end
    return guesses


def _float_guess(item: Instruction, parameters: Content, weights: Any, first: int) -> Any:
    import numpy as np

    if item.predictor is Predictor.DECAY:
        weights = weights.copy()
        for step, times in zip(item.scalars[::2], item.scalars[1::2], strict=True):
            factor = np.float32(1.0 - step * _STEP)
            for _ in range(times):
                weights *= factor
        return weights
    if item.predictor is Predictor.ROW_SCALE:
        return weights * _spread(np.frombuffer(parameters, dtype="<f4"), item, first, len(weights))
    return weights


def _pruned(item: Instruction, raw: Integers, old: Element, new: Element) -> Integers:
    import numpy as np

    threshold = np.uint32(item.scalars[0] & 0xFFFFFFFF).view(np.float32)
    weights = reals(raw, old)
    guess = bits_of(weights, new).copy()
    zero = np.abs(weights) <= threshold
    guess[zero] = (guess[zero] & (-1 << (new.width * 8 - 1))) if item.scalars[1] else 0
    return guess


def _quantised(item: Instruction, parameters: Content, raw: Integers, first: int) -> Integers:
    import numpy as np

    new, old = item.fields[0].element, item.old_element
    count = item.scalars[1]
    scales = np.frombuffer(parameters, dtype="<f4", count=count)
    zeros = np.frombuffer(parameters, dtype="<i4", offset=4 * count)
    if old is not None and old.is_float:
        guess = np.rint(reals(raw, old) / _spread(scales, item, first, len(raw)))
        guess += _spread(zeros, item, first, len(raw)).astype(np.float32)
    else:
        numbers = (raw.view(f"<u{raw.itemsize}") if old in {Element.U8, Element.U16} else raw).astype(np.float32)
        numbers -= _spread(zeros[:count], item, first, len(raw)).astype(np.float32)
        guess = np.rint(numbers * _spread(scales, item, first, len(raw)))
        guess += _spread(zeros[count:], item, first, len(raw)).astype(np.float32)
    low, high = _WHOLE[new]
    # What is not a number is guessed to be the lowest one, whatever the machine's conversion would make of it; a float32
    # cannot hold the highest int32.
    exact = guess.astype(np.float64) if new is Element.I32 else guess
    clipped = np.clip(np.nan_to_num(exact, nan=low), low, high)
    return cast(Integers, clipped.astype(np.int32).astype(f"<i{new.width}"))


def _spread(values: Any, item: Instruction, first: int, count: int) -> Any:
    """The parameter of each of `count` elements from `first` on."""
    import numpy as np

    inner, available = item.scalars
    if available == 1:
        return values[:1]
    if len(values) < available:
        raise PatchPayloadError(f"expected {available} parameters, got {len(values)}")
    start, end = first // inner, -(-(first + count) // inner)
    chosen = np.arange(start, end) % available
    # Exactly `count` numbers, whatever `inner` a patch claims.
    lengths = np.full(len(chosen), min(inner, count))
    lengths[0] = min(inner - (first - start * inner), count)
    lengths[-1] = count - int(lengths[:-1].sum())
    return np.repeat(values[chosen], lengths)
