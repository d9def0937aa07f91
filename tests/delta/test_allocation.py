"""Memory of the blocks before is used again: where glibc is, pages are not had from the kernel anew for each block."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.delta.pairs import files
from tests.delta.patches import make

APPLIED = """
import resource, sys
from pathlib import Path
from tests.delta.patches import Held
from device_client.wire.tensor1 import apply

def discard(offset, content):
    pass

patch, old = (Held(Path(place).read_bytes()) for place in sys.argv[1:])
apply(patch, old, discard)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    apply(patch, old, discard)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
BLOCKS = 4 * 8


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_apply__many_blocks__few_new_pages(tmp_path: Path) -> None:
    dice = np.random.default_rng(4)
    old = (dice.standard_normal((2048, 1024)) * 0.03).astype(np.float16)
    new = (old * dice.normal(1, 2e-3, old.shape)).astype(np.float16)
    before, after = (files.safetensors({"w": weights}) for weights in (old, new))
    places = (tmp_path / "patch", tmp_path / "old")
    for place, content in zip(places, (make(before, after)[0], before), strict=True):
        place.write_bytes(content)
    said = subprocess.run(
        [sys.executable, "-c", APPLIED, *map(str, places)], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    # Without it, each block has five hundred pages and more from the kernel.
    assert int(said.stdout) < 64 * BLOCKS
