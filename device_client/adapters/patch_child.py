"""The child process that applies one patch: reads its job as JSON from stdin, limits itself, writes the output, exits.

Run as `python -m device_client.adapters.patch_child`. Exit status 0 means that the output has the expected length.
"""

import json
import os
import resource
import sys
from pathlib import Path

from device_client.wire import delta
from device_client.wire.errors import WireError


def main() -> int:
    """Do the job on stdin."""
    job = json.load(sys.stdin)
    expected_bytes = int(job["expected_bytes"])
    resource.setrlimit(resource.RLIMIT_AS, (int(job["memory_bytes"]),) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (expected_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(job["cpu_s"]),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        output = delta.apply(
            delta.Codec(job["codec"]),
            Path(job["old"]).read_bytes(),
            Path(job["patch"]).read_bytes(),
            expected_bytes=expected_bytes,
        )
        with Path(job["output"]).open("wb") as file:
            file.write(output)
            file.flush()
            os.fsync(file.fileno())
    except (WireError, OSError, MemoryError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
