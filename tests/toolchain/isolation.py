"""A pytest plugin, loaded before Django's settings (`-p` in pyproject.toml): tests never see the developer's own fleet.

Each test process gets a MODELFLEET_HOME in a directory of its own, removed at the end, and no other MODELFLEET_* setting
of the caller. MODELFLEET_TEST_DB=postgres runs the same tests on a PostgreSQL that the first process starts and its xdist
workers share; the default is SQLite in a real file, because an in-memory one locks differently.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.toolchain.postgres import PostgresUnavailableError, start_postgres

_SHARED_POSTGRES = "MODELFLEET_TEST_POSTGRES_URL"


def _isolate() -> Path:
    kept = {"MODELFLEET_TEST_DB", _SHARED_POSTGRES}
    for name in [name for name in os.environ if name.startswith("MODELFLEET_") and name not in kept]:
        del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="mf-tests-"))
    owner = os.getpid()
    os.environ["MODELFLEET_HOME"] = str(home)
    # A child that a test forked must not remove the directory of its parent.
    atexit.register(lambda: shutil.rmtree(home, ignore_errors=True) if os.getpid() == owner else None)
    match os.environ.setdefault("MODELFLEET_TEST_DB", "sqlite"):
        case "sqlite":
            pass
        case "postgres":
            os.environ["MODELFLEET_DATABASE_URL"] = _postgres_url(owner)
        case other:
            sys.exit(f"MODELFLEET_TEST_DB: got {other!r}, expected sqlite or postgres")
    return home


def _postgres_url(owner: int) -> str:
    if _SHARED_POSTGRES not in os.environ:
        try:
            server = start_postgres()
        except PostgresUnavailableError as error:
            sys.exit(f"MODELFLEET_TEST_DB=postgres: {error}")
        atexit.register(lambda: server.stop() if os.getpid() == owner else None)
        os.environ[_SHARED_POSTGRES] = server.url
    return os.environ[_SHARED_POSTGRES]


HOME = _isolate()
