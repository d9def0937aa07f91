"""`ports.Patcher`: deltas are applied in a child process that may use little memory, time and disk.

A hostile bsdiff4 patch inflates far beyond what its header announces (measured: 1.5 KB to 4 GB). The child's limits
turn that into a refusal; the result is hashed by whoever asked for it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from device_client.core.errors import PatchError
from device_client.wire.delta import Codec

CHILD: Final = "device_client.adapters.patch_child"
BASE_MEMORY_BYTES: Final = 256 * 2**20  # interpreter, libraries and allocator arenas, as address space
MEMORY_PER_BYTE: Final = 4  # old, new, inflated difference, one copy
CPU_S: Final = 60
CPU_S_PER_MB: Final = 1
WALL_FACTOR: Final = 4


class ChildPatcher:
    """Starts one child per patch."""

    def apply(self, codec: Codec, old: Path, patch: Path, output: Path, expected_bytes: int) -> None:
        output.unlink(missing_ok=True)
        megabytes = expected_bytes // 2**20
        cpu_s = CPU_S + CPU_S_PER_MB * megabytes
        job = {
            "codec": codec.value,
            "old": str(old),
            "patch": str(patch),
            "output": str(output),
            "expected_bytes": expected_bytes,
            "memory_bytes": BASE_MEMORY_BYTES
            + MEMORY_PER_BYTE * (old.stat().st_size + expected_bytes + patch.stat().st_size),
            "cpu_s": cpu_s,
        }
        try:
            done = subprocess.run(
                [sys.executable, "-m", CHILD],
                input=json.dumps(job).encode(),
                capture_output=True,
                timeout=cpu_s * WALL_FACTOR,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PatchError(f"expected a patched file, got {error}") from error
        if done.returncode != 0:
            output.unlink(missing_ok=True)
            last = done.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
            raise PatchError(f"expected a patched file, got exit status {done.returncode}: {last}"[:300])
