"""The process in which a candidate runs beside the champion. Run as `python -m device_client.runtimes.shadow_child`.

stdin: frames of four bytes of length (big-endian) and so many bytes: the manifest, the weights, then the inputs of one
inference after the other: a JSON head behind its length, which says of each input its type, its shape and whether it was
no array, and the bytes of each. stdout: one line of JSON for the load and for each inference. One thread; it ends when its
stdin does, or its parent. With `--give-way` it takes what time the machine has left.
"""

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Mapping
from typing import IO, Any, Final

LENGTH: Final = struct.Struct(">I")
LOWEST: Final = 19
GIVE_WAY: Final = "--give-way"
FIRST_TO_GO: Final = "1000"  # proc(5), oom_score_adj
PR_SET_PDEATHSIG: Final = 1
MAX_TEXT: Final = 300


def main() -> int:
    """Load, then answer until there is nothing more to answer."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a runtime prints must not be taken for an answer
    source = sys.stdin.buffer
    _stay_below(gives_way=GIVE_WAY in sys.argv)
    try:
        model = _load(source)
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises, the parent has to hear of it
        _say(out, {"error": f"{type(error).__name__}: {error}"[:MAX_TEXT]})
        return 1
    _say(out, {"loaded": True, "rss_bytes": _rss_bytes()})
    while (frame := _frame(source)) is not None:
        _say(out, _answer(model, frame))
    return 0


def _stay_below(*, gives_way: bool) -> None:
    """Behind everything else on this machine, first to go where memory is short, and not longer than the parent."""
    if gives_way:
        os.nice(LOWEST)
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - no path is made here
        file.write(FIRST_TO_GO)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _load(source: IO[bytes]) -> Any:
    from device_client import runtimes
    from device_client.wire.bundles import Manifest

    described, weights = _frame(source), _frame(source)
    if described is None or weights is None:
        raise EOFError("expected a manifest and weights, got the end of the input")
    manifest = Manifest.parse(described)
    found = runtimes.installed(1)
    if manifest.variant.runtime not in found:
        raise ValueError(f"expected a runtime of {sorted(found)}, got {manifest.variant.runtime}")
    return found[manifest.variant.runtime].load(weights, manifest)


def _answer(model: Any, frame: bytes) -> Mapping[str, object]:
    import numpy as np

    try:
        (size,) = LENGTH.unpack_from(frame)
        start, inputs = LENGTH.size + size, {}
        for name, (kind, shape, is_plain) in json.loads(frame[LENGTH.size : start]).items():
            dtype, count = np.dtype(kind), math.prod(shape)
            array = np.frombuffer(frame, dtype, count, start).reshape(shape)
            inputs[name] = array.tolist() if is_plain else array
            start += dtype.itemsize * count
        began, cpu, waited_s = time.perf_counter(), time.process_time(), _waited_s()
        outputs = model.infer(inputs)
        latency_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        first = next(iter(outputs.values()), None)
        top = int(first.argmax()) if first is not None and hasattr(first, "argmax") and first.size else None
        return {
            "top": top,
            "nan": any(_has_nan(value) for value in outputs.values()),
            "latency_ms": _own_ms(latency_s, waited_s, _waited_s()),
            "cpu_s": cpu_s,
            "rss_bytes": _rss_bytes(),
        }
    except Exception as error:  # noqa: BLE001 - as for the load
        return {"error": f"{type(error).__name__}: {error}"[:MAX_TEXT]}


def _own_ms(latency_s: float, waited_before_s: float | None, waited_after_s: float | None) -> float | None:
    """A latency without what other processes took of it; None where the kernel does not say how much that was."""
    if waited_before_s is None or waited_after_s is None:
        return None
    return max(0.0, latency_s - (waited_after_s - waited_before_s)) * 1_000.0


def _waited_s() -> float | None:
    """How long this thread has been ready to run while others ran; None where the kernel keeps no such count."""
    try:
        with open("/proc/thread-self/schedstat") as file:  # noqa: PTH123 - no path is made here
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _has_nan(value: Any) -> bool:
    if getattr(getattr(value, "dtype", None), "kind", "") != "f" or not value.size:
        return False
    return math.isnan(float(value.max()))


def _rss_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - no path is made here
        return int(file.read().split()[1]) * resource.getpagesize()


def _frame(source: IO[bytes]) -> bytes | None:
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = source.read(length)
    return body if len(body) == length else None


def _say(out: IO[str], answer: Mapping[str, object]) -> None:
    out.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    sys.exit(main())
