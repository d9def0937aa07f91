"""What a shadow costs the champion: `python -m tests.bench.shadow`.

One real ONNX model is asked again and again through a lease, with a pause between inferences as a camera has, first alone,
then with another one in its shadow, in turns. Prints the champion's latency as the application sees it, with and without,
and their ratios; times under load say little, the ratios are of the same minutes. `--load 16` keeps so many other processes
busy meanwhile, which is where a shadow would show first.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Final

import numpy as np

from device_client import runtimes
from device_client.adapters.clock import SystemClock
from device_client.adapters.shadow import ChildShadows
from device_client.ports import OpenSlot, Serving
from device_client.sdk.host import ModelHost
from device_client.wire.bundles import BundleFile, FileRole, Manifest
from device_client.wire.names import VariantName
from device_client.wire.shadow import ShadowBudget
from tests.cli.conftest import onnx_bytes

MODEL: Final = "vision.digits"
HIDDEN: Final = 20_000  # about a millisecond an inference
PAUSE_S: Final = 0.005
BUDGET: Final = ShadowBudget(inference_share=0.2, time_share=0.1)
STARTS_WITHIN_S: Final = 60.0


def slot(version: str) -> OpenSlot:
    """A version with other weights."""
    content = onnx_bytes(int(version), HIDDEN)
    file = BundleFile("model.onnx", FileRole.WEIGHTS, sha256(content).hexdigest(), len(content))
    manifest = Manifest(MODEL, version, VariantName("onnx", "fp32", "any"), "onnx", (file,))
    return OpenSlot(manifest, manifest.digest, {"model.onnx": content})


def asked(host: ModelHost, count: int) -> list[float]:
    """So many inferences, in milliseconds each, with all that the application waits for."""
    image, took = np.zeros((1, 64), np.float32), []
    for _ in range(count):
        began = time.perf_counter()
        with host.lease(MODEL) as lease:
            lease.infer(image=image)
        took.append((time.perf_counter() - began) * 1_000)
        time.sleep(PAUSE_S)
    return took


def compared(host: ModelHost) -> int:
    """How many pairs the shadow has made since it was last asked."""
    taken = [window.shadow for window, _ in host.take_windows(everything=True)]
    return sum(item.compared for item in taken if item is not None)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute without end, of sessions of their own as other services are, and end with this."""
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(count)
    ]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def in_turns(host: ModelHost, candidate: OpenSlot, turns: int, inferences: int) -> tuple[list[float], list[float], int]:
    """The champion's milliseconds alone and beside a shadow, and how many pairs were made."""
    alone: list[float] = []
    beside: list[float] = []
    pairs = 0
    for _ in range(turns):
        alone += asked(host, inferences)
        host.shadow(MODEL, candidate, BUDGET)
        until = time.monotonic() + STARTS_WITHIN_S
        while not compared(host) and time.monotonic() < until:
            asked(host, 20)
        beside += asked(host, inferences)
        pairs += compared(host)
        host.shadow(MODEL, None, BUDGET)
    return alone, beside, pairs


def main(words: Sequence[str]) -> int:
    """Measure in turns; 0 if the shadow has made pairs."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.shadow", description=__doc__)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--inferences", type=int, default=400, help="in each turn")
    parser.add_argument("--load", type=int, default=0, help="busy processes beside it")
    parser.add_argument("--json", metavar="OUT")
    options = parser.parse_args(words)
    host = ModelHost(
        device_id="bench", runtimes=runtimes.installed(1), clock=SystemClock(), shadows=ChildShadows(lambda: None)
    )
    champion, candidate = slot("1"), slot("2")
    host.prepare(champion)
    host.switch(Serving(MODEL, "1", champion.digest))
    with busy(options.load):
        alone, beside, pairs = in_turns(host, candidate, options.turns, options.inferences)
    figures: dict[str, float] = {"pairs": pairs, "inferences": len(beside)}
    for name, place in (("median", 0.5), ("p95", 0.95), ("p99", 0.99)):
        a, b = (statistics.quantiles(times, n=1_000)[int(place * 1_000) - 1] for times in (alone, beside))
        figures |= {f"{name}_alone_ms": round(a, 3), f"{name}_beside_ms": round(b, 3), f"{name}_ratio": round(b / a, 3)}
        print(f"{name:6} {a:7.2f} ms alone, {b:7.2f} ms beside a shadow: {b / a:.2f} times")
    print(f"{pairs} pairs of {len(beside)} inferences")
    if options.json:
        with open(options.json, "w") as out:  # noqa: PTH123 - a path as it was typed
            json.dump(figures, out, indent=2)
    return 0 if pairs else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
