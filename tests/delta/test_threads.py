"""Where patches are made, numpy is loaded only after its BLAS was told to keep to one thread."""

import os
import subprocess
import sys

import pytest

WATCHED = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy" and os.environ.get("OPENBLAS_NUM_THREADS") != "1":
            raise SystemExit("numpy came first")
sys.meta_path.insert(0, Watch())
import {module}
assert "numpy" in sys.modules
"""


@pytest.mark.parametrize("module", ["fleet.adapters.delta_files", "fleet.adapters.delta_encoders"])
def test_import__of_what_makes_patches__threads_are_limited_before_numpy(module: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    ran = subprocess.run(
        [sys.executable, "-c", WATCHED.format(module=module)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
