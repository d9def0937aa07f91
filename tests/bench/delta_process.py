"""One measured step of the benchmark, in a process of its own: makes or applies one patch and says what that took.

`python -m tests.bench.delta_process create|apply CODEC OLD NEW-OR-PATCH OUT` prints one line of JSON. Only what the step
needs is imported, so that its memory is what a worker or a device would need.
"""

import hashlib
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path

MIB = 1 << 20


def status_mib(key: str) -> float:
    """A figure of this process as the kernel has it, such as `VmHWM`: its largest resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / MIB
    return 0.0


class File:
    """A file by offset."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)


def create_tensor1(old: Path, new: Path, patch: Path, *, portable: bool) -> dict[str, object]:
    from fleet.adapters.delta_files import layout_of
    from fleet.adapters.delta_tensor import Coding, encode

    with patch.open("w+b") as out:
        coding = Coding.PORTABLE if portable else Coding.PCODEC
        stats = encode(File(old), File(new), layout_of(old), layout_of(new), out, coding=coding)
    return {"tensors": len(stats.tensors), "verbatim": stats.verbatim}


def verify_tensor1(old: Path, new: Path, patch: Path) -> None:
    """What a worker does before it publishes: decode, and compare with the digest that it knows."""
    from fleet.adapters.delta_proof import proven_sha256

    made = proven_sha256(File(patch), File(old))
    with new.open("rb") as file:
        if hashlib.file_digest(file, "sha256").digest() != made:
            raise SystemExit("expected a patch for the new file, got one that announces another")


def apply_tensor1(old: Path, patch: Path, new: Path) -> float:
    """Returns the process's CPU seconds when everything was loaded."""
    from device_client.wire.tensor1 import decoder

    # What the first block of most patches would load.
    for library in ("numpy", "pcodec"):
        import_module(library)
    started = time.process_time()
    with new.open("wb") as out:

        def write(offset: int, content: bytes | bytearray) -> None:
            out.write(content)

        decoder.apply(File(patch), File(old), write)
    return started


def create_bsdiff4(old: Path, new: Path, patch: Path) -> None:
    import bsdiff4

    patch.write_bytes(bsdiff4.diff(old.read_bytes(), new.read_bytes()))


def apply_bsdiff4(old: Path, patch: Path, new: Path) -> None:
    import bsdiff4

    new.write_bytes(bsdiff4.patch(old.read_bytes(), patch.read_bytes()))


def main(action: str, codec: str, *places: str) -> None:
    """Carry out one step and print its figures."""
    interpreter_mib = status_mib("VmRSS")
    first, second, third = (Path(place) for place in places)
    wall, cpu = time.perf_counter(), time.process_time()
    said: dict[str, object] = {}
    match action, codec:
        case "create", "tensor1" | "tensor1-portable":
            said = create_tensor1(first, second, third, portable=codec != "tensor1")
            said["encode_s"], said["encode_cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu
            verify_tensor1(first, second, third)
        case "create", "bsdiff4":
            create_bsdiff4(first, second, third)
        case "apply", "bsdiff4":
            apply_bsdiff4(first, second, third)
        case "apply", _:
            said["start_cpu_s"] = apply_tensor1(first, second, third) - cpu
        case _:
            raise SystemExit(f"expected create or apply and a codec, got {action} {codec}")
    said |= {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_rss_mib": status_mib("VmHWM"),
        "interpreter_rss_mib": interpreter_mib,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
