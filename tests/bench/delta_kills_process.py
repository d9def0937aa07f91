"""A device's part of an update by patch, in a process of its own, for `tests.bench.delta_kills` to kill.

`python -m tests.bench.delta_kills_process JOB` fetches and applies one patch with what a device uses for it: HTTP, and a
child that applies. Where an earlier life stopped and this one goes on is a line of its log.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from device_client.adapters.clock import SystemClock
from device_client.adapters.patch import ChildPatcher
from device_client.ports import PatchJob, Transfer
from device_client.wire.delta import Codec


def never() -> bool:
    return False


def main(told: dict[str, Any]) -> None:
    """Do the job."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    job = PatchJob(
        codec=Codec.TENSOR1,
        patch_sha256=told["patch_sha256"],
        patch_bytes=told["patch_bytes"],
        old=Path(told["old"]),
        old_sha256=told["old_sha256"],
        new_sha256=told["new_sha256"],
        new_bytes=told["new_bytes"],
        work=Path(told["work"]),
    )
    if told["way"] == "in_place":
        in_place(job, Path(told["patch"]))
    else:
        stream(job, told["url"])


def stream(job: PatchJob, url: str) -> None:
    from device_client.adapters.http import HttpDownloads, connect

    downloads = HttpDownloads(connect(), SystemClock(), url)
    transfer = Transfer(url, job.patch_sha256, job.patch_bytes)
    ChildPatcher().stream(job, lambda start: downloads.stream(transfer, start, never), never)


def in_place(job: PatchJob, patch: Path) -> None:
    def give_up() -> None:
        if not job.output.exists():
            job.old.rename(job.output)

    ChildPatcher().apply_in_place(job, patch, give_up, never)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
