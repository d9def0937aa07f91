"""Processes that make no patch carry no library for it. Seen from outside: another test may have imported anything here."""

import subprocess
import sys

from tests.architecture.sources import ROOT

# Everything that any process of the server imports at its start, by the roots of its entry points.
STARTED = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "fleet.config.settings"
import django
django.setup()
from django.urls import get_resolver
get_resolver().url_patterns
from importlib import import_module
for name in ("conductor", "director", "ingest", "publisher", "worker"):
    import_module("fleet.entrypoints.gateway.management.commands." + name)
print(*sorted({"numpy", "pcodec", "bsdiff4"} & set(sys.modules)))
"""


def test_server__at_its_start__has_imported_no_library_of_patches() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTED], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
