"""The demo's own control plane: one `manage.py up` in a directory of its own, started and stopped as a user would.

It also speaks for the two kinds of user: the pipeline (`modelfleet`, as a command) and a program with a token (HTTP).
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

import fleet
from fleet.demo.progress import StoryError
from fleet.entrypoints.up.children import end_with_parent

ROOT: Final = Path(fleet.__file__).resolve().parents[1]
READY_WITHIN_S: Final = 180.0
STOP_WITHIN_S: Final = 20.0
ANSWERS_WITHIN_S: Final = 60.0
LOGIN: Final = "admin"


class ControlPlane:
    """Everything under `directory` belongs to one run of the demo."""

    def __init__(self, directory: Path, port: int | None) -> None:
        self.directory = directory
        self.home = directory / "server"
        self.keys = directory / "keys"
        self.password = secrets.token_urlsafe(9)
        self._port = port
        self._up: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("MODELFLEET_")}
        self._environment |= {"MODELFLEET_HOME": str(self.home), "HOME": str(directory)}

    # ------------------------------------------------------------------------------------------ life

    def prepare(self) -> None:
        """A fresh installation with a first user and a token; needs no running server."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.keys, ignore_errors=True)
        self.home.mkdir(parents=True)
        self._manage("prepare", "--verbosity", "0")
        self._manage(
            "createsuperuser",
            "--noinput",
            "--username",
            LOGIN,
            "--email",
            "",
            extra={"DJANGO_SUPERUSER_PASSWORD": self.password},
        )
        token = self._manage("issue_token", "--name", "demo", "--scopes", "admin").strip().splitlines()[-1]
        self._environment["MODELFLEET_TOKEN"] = token

    def start(self) -> None:
        """Start `up` and wait until it says where it is."""
        command = [sys.executable, str(ROOT / "manage.py"), "up"]
        command += [] if self._port is None else ["--port", str(self._port)]
        log = (self.directory / "up.log").open("wb")
        self._up = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self._environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=end_with_parent(),  # noqa: PLW1509 - what it does takes no lock
        )
        log.close()
        note = self.home / "up.json"
        deadline = time.monotonic() + READY_WITHIN_S
        while not note.exists():
            if self._up.poll() is not None or time.monotonic() > deadline:
                raise StoryError(f"expected a running control plane, got: {self._last_words()}")
            time.sleep(0.1)
        url = str(json.loads(note.read_text())["web_url"])
        self._environment["MODELFLEET_URL"] = url
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {self._environment['MODELFLEET_TOKEN']}"},
            timeout=ANSWERS_WITHIN_S,
        )

    def stop(self) -> None:
        """Stop `up` the way Ctrl-C does; it stops what it started."""
        if self._up is None:
            return
        if self._up.poll() is None:
            self._up.send_signal(signal.SIGINT)
            try:
                self._up.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._up.kill()
                self._up.wait()
        self._up = None

    @property
    def running(self) -> bool:
        """Whether `up` still runs."""
        return self._up is not None and self._up.poll() is None

    @property
    def url(self) -> str:
        """Where the pages are."""
        return self._environment["MODELFLEET_URL"]

    def _last_words(self) -> str:
        lines = (self.directory / "up.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"

    def _manage(self, *arguments: str, extra: Mapping[str, str] | None = None) -> str:
        return _run(
            [sys.executable, str(ROOT / "manage.py"), *arguments], {**self._environment, **(extra or {})}, arguments[0]
        )

    # ------------------------------------------------------------------------------------------ users

    def modelfleet(self, *arguments: str) -> Any:
        """Run the pipeline command with `--json` and return what it printed."""
        command = [sys.executable, "-m", "fleet.entrypoints.cli", "--json", *arguments]
        printed = _run(command, self._environment, f"modelfleet {' '.join(arguments[:2])}")
        try:
            return json.loads(printed)
        except ValueError as error:
            raise StoryError(f"expected JSON from modelfleet {arguments[0]}, got {printed[:200]!r}") from error

    def get(self, path: str, **parameters: str) -> Any:
        """GET below /api/v1/."""
        return self._request("GET", path, params=parameters)

    def post(self, path: str, body: object) -> Any:
        """POST below /api/v1/."""
        return self._request("POST", path, json=body)

    def every(self, path: str, **parameters: str) -> list[Any]:
        """All items of a paginated list."""
        page = self.get(path, **parameters)
        items = list(page["results"])
        while page.get("next"):
            page = self._request("GET", page["next"])
            items += page["results"]
        return items

    def _request(self, method: str, path: str, **options: Any) -> Any:
        if self._client is None:
            raise StoryError("expected a running control plane, got none")
        url = path if path.startswith("http") else f"/api/v1/{path}"
        try:
            answer = self._client.request(method, url, **options)
        except httpx.HTTPError as error:
            raise StoryError(f"{method} {path}: {error}") from error
        if answer.is_error:
            raise StoryError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json()


def _run(command: list[str], environment: Mapping[str, str], what: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise StoryError(f"{what} ended with {done.returncode}: {words[-1] if words else 'no words'}")
    return done.stdout
