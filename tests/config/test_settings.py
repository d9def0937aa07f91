"""Settings as Django sees them, in processes of their own: they are read once per process."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fleet.config.logs import LineFormatter

ROOT = Path(__file__).resolve().parents[2]
SHOW = """
import django, json
django.setup()
from django.conf import settings
from django.db import connection
names = ["SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT", "SECURE_HSTS_SECONDS", "ALLOWED_HOSTS",
         "ROOT_URLCONF", "DEBUG", "SECURE_PROXY_SSL_HEADER"]
found = {name: getattr(settings, name) for name in names}
found["SECRET_KEY_BYTES"] = len(settings.SECRET_KEY)
if connection.vendor == "sqlite":
    with connection.cursor() as cursor:
        for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout"):
            cursor.execute(f"PRAGMA {pragma}")
            found[pragma] = cursor.fetchone()[0]
print(json.dumps(found))
"""


def python(home: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELFLEET_")}
    environment |= {f"MODELFLEET_{name}": value for name, value in variables.items()}
    environment |= {"MODELFLEET_HOME": str(home), "DJANGO_SETTINGS_MODULE": "fleet.config.settings"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def settings_of(home: Path, **variables: str) -> dict[str, Any]:
    done = python(home, "-c", SHOW, **variables)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_settings__on_a_laptop__sqlite_is_durable_and_cookies_work_over_http(tmp_path: Path) -> None:
    found = settings_of(tmp_path)
    assert (found["journal_mode"], found["synchronous"], found["foreign_keys"]) == ("wal", 2, 1)
    assert found["busy_timeout"] == 20_000
    assert not found["SESSION_COOKIE_SECURE"]
    assert not found["SECURE_SSL_REDIRECT"]
    assert not found["DEBUG"]
    assert found["SECRET_KEY_BYTES"] >= 50


def test_settings__public_url_is_https__everything_is_secure(tmp_path: Path) -> None:
    found = settings_of(tmp_path, PUBLIC_URL="https://fleet.example.org")
    assert found["SESSION_COOKIE_SECURE"]
    assert found["CSRF_COOKIE_SECURE"]
    assert found["SECURE_SSL_REDIRECT"]
    assert found["SECURE_HSTS_SECONDS"] > 0
    assert "fleet.example.org" in found["ALLOWED_HOSTS"]
    assert found["SECURE_PROXY_SSL_HEADER"] is None


def test_settings__devices_only__no_pages_are_routed(tmp_path: Path) -> None:
    assert settings_of(tmp_path, DEVICES_ONLY="1")["ROOT_URLCONF"] == "fleet.config.urls_devices"


def test_check_deploy__production_environment__clean(tmp_path: Path) -> None:
    done = python(
        tmp_path, "manage.py", "check", "--deploy", "--fail-level", "WARNING", PUBLIC_URL="https://fleet.example.org"
    )
    assert done.returncode == 0, done.stderr


def test_wsgi__not_prepared__refuses_to_serve(tmp_path: Path) -> None:
    done = python(tmp_path, "-c", "import fleet.config.wsgi")
    assert done.returncode != 0
    assert "run `manage.py prepare`" in done.stderr


def test_prepare__run_twice__second_changes_no_secret(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert python(home, "manage.py", "prepare").returncode == 0
    before = {path: path.read_bytes() for path in (home / "secrets").rglob("*.*") if path.is_file()}
    assert python(home, "manage.py", "prepare").returncode == 0
    assert {path: path.read_bytes() for path in (home / "secrets").rglob("*.*") if path.is_file()} == before
    assert python(home, "-c", "import fleet.config.wsgi").returncode == 0


def test_prepare__secret_is_damaged__one_line_and_status_1(tmp_path: Path) -> None:
    assert python(tmp_path, "manage.py", "prepare").returncode == 0
    (tmp_path / "secrets" / "device_ca.key").unlink()
    done = python(tmp_path, "manage.py", "prepare")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "restore it from a backup" in done.stderr


@pytest.mark.parametrize("break_line", ["\n", "\r", "\r\n"])
def test_log_line__message_with_line_breaks__stays_one_line(break_line: str) -> None:
    record = logging.LogRecord("fleet.x", logging.WARNING, __file__, 1, "got %s", (f"a{break_line}2026 ERROR b",), None)
    line = LineFormatter("ingest").format(record)
    assert "\n" not in line
    assert "\r" not in line
    assert " WARNING ingest fleet.x: got a" in line


def test_log_line__exception__traceback_follows_indented() -> None:
    try:
        raise ValueError("broken\nline")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    first, *rest = LineFormatter("web").format(record).splitlines()
    assert first.endswith("ERROR   web x: failed")
    assert rest
    assert all(line.startswith("    ") for line in rest)
