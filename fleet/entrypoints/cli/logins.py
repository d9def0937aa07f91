"""Which server, and with which token: the environment first, then what `modelfleet login` stored.

The file holds a credential: it is made with mode 600 and refused with any other.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.entrypoints.cli.errors import CommandError

URL_VARIABLE: Final = "MODELFLEET_URL"
TOKEN_VARIABLE: Final = "MODELFLEET_TOKEN"  # noqa: S105 - the name of a variable
DEFAULT_URL: Final = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Login:
    """A server's address without a trailing slash, and a token, which may be empty."""

    url: str
    token: str


def config_path(environment: Mapping[str, str]) -> Path:
    """Where `modelfleet login` stores what it is given."""
    base = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME", "~")).expanduser() / ".config")
    return Path(base) / "modelfleet" / "config.toml"


def find_login(environment: Mapping[str, str], url: str | None) -> Login:
    """The login to use; `url` is what the command line says. A stored token goes to its own server and no other."""
    stored = _read(config_path(environment))
    chosen = (url or environment.get(URL_VARIABLE) or stored.url or DEFAULT_URL).rstrip("/")
    token = environment.get(TOKEN_VARIABLE) or (stored.token if stored.url == chosen else "")
    return Login(chosen, token)


def save_login(environment: Mapping[str, str], login: Login) -> Path:
    """Store a login; returns where."""
    path = config_path(environment)
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"url = {json.dumps(login.url)}\ntoken = {json.dumps(login.token)}\n")
        partial.replace(path)
    except OSError as error:
        raise CommandError("config_unwritable", f"cannot write {path}: {error.strerror}") from error
    return path


def _read(path: Path) -> Login:
    try:
        content = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode & 0o077
    except FileNotFoundError:
        return Login("", "")
    except OSError as error:
        raise CommandError("config_unreadable", f"cannot read {path}: {error.strerror}") from error
    if mode:
        raise CommandError("config_exposed", f"{path} can be read by others: expected mode 600 (chmod 600 {path})")
    try:
        values = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise CommandError("config_malformed", f"{path}: expected TOML with url and token, {error}") from error
    url, token = values.get("url", ""), values.get("token", "")
    if not isinstance(url, str) or not isinstance(token, str):
        raise CommandError("config_malformed", f"{path}: expected url and token to be strings")
    return Login(url, token)
