"""The environment variables of a Modelfleet process, parsed once into one frozen object.

Refuses what it cannot parse, and says which variable, what it got and what it expected. It touches neither files nor the
network: whether the home directory can be written or the broker answers is for those who use them to say.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

PREFIX = "MODELFLEET_"


class EnvironmentInvalidError(ValueError):
    """An environment variable does not hold what it must; the operator's fault, one line."""

    def __init__(self, variable: str, got: str, expected: str) -> None:
        super().__init__(f"{PREFIX}{variable}: got {got!r}, expected {expected}")


@dataclass(frozen=True)
class Address:
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class SqliteFile:
    """The embedded database: one file."""

    path: Path


@dataclass(frozen=True)
class PostgresServer:
    """A PostgreSQL database; `host` is a name, an address or the directory of its socket."""

    host: str
    port: int | None
    name: str
    user: str
    password: str


@dataclass(frozen=True)
class LocalBlobs:
    """Blobs in a directory of this machine."""

    directory: Path


@dataclass(frozen=True)
class S3Blobs:
    """Blobs in a bucket; credentials come from where boto3 finds them."""

    bucket: str
    prefix: str
    endpoint_url: str | None


@dataclass(frozen=True)
class DeltaLimits:
    """What patches may take: CPU seconds and bytes of new files for one version, and days that an idle patch is kept."""

    cpu_s: float = 3_600.0
    new_bytes: int = 64 << 30
    keep_days: float = 14.0


@dataclass(frozen=True)
class Environment:
    """Everything a process is told from outside. `settings.MODELFLEET` holds the one instance."""

    home: Path
    database: SqliteFile | PostgresServer
    blobs: LocalBlobs | S3Blobs
    deltas: DeltaLimits
    broker: Address
    """Our own listener: processes of the server connect here."""
    device_broker: Address
    """The listener that devices are told to connect to."""
    public_url: str
    """What browsers and pipelines are told, without a trailing slash."""
    device_url: str
    """What devices are told; the same as `public_url` unless devices have a web server of their own (`up --lan`)."""
    allowed_hosts: tuple[str, ...]
    debug: bool
    behind_proxy: bool
    """Whether a proxy ends TLS and overwrites X-Forwarded-Proto; only then is that header believed."""
    devices_only: bool
    """Whether this web process serves devices and nothing else: no pages, no API, no admin."""
    process: str
    """The name of this process in logs."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts (`name` or `name:port`) that webhooks may call although they are not public or do not speak TLS."""

    @property
    def secrets(self) -> Path:
        """The directory of keys and certificates."""
        return self.home / "secrets"

    @property
    def over_tls(self) -> bool:
        """Whether browsers reach this web process by https."""
        return self.public_url.startswith("https://")


def parse_environment(variables: Mapping[str, str], *, root: Path, process: str) -> Environment:
    """Read `MODELFLEET_*` out of `variables`; `root` is the checkout and `process` the name used when none is given.

    Raises EnvironmentInvalidError for the first variable that does not parse.
    """
    values = {
        name.removeprefix(PREFIX): value for name, value in variables.items() if name.startswith(PREFIX) and value
    }
    home = Path(values.get("HOME", str(root / "var" / "server"))).absolute()
    public_url = _url("PUBLIC_URL", values.get("PUBLIC_URL", "http://127.0.0.1:8000"))
    device_url = _url("DEVICE_URL", values.get("DEVICE_URL", public_url))
    own_hosts = {"localhost", "127.0.0.1", "[::1]", _host_of(public_url), _host_of(device_url)}
    allowed_hosts = values.get("ALLOWED_HOSTS")
    return Environment(
        home=home,
        database=_database(values["DATABASE_URL"]) if "DATABASE_URL" in values else SqliteFile(home / "db.sqlite3"),
        blobs=_blobs(values["BLOBS"]) if "BLOBS" in values else LocalBlobs(home / "blobs"),
        deltas=DeltaLimits(
            cpu_s=_number("DELTA_CPU_S", values, DeltaLimits.cpu_s, "CPU seconds for one version"),
            new_bytes=int(_number("DELTA_BYTES", values, DeltaLimits.new_bytes, "bytes of one version's files")),
            keep_days=_number("DELTA_KEEP_DAYS", values, DeltaLimits.keep_days, "days"),
        ),
        broker=_address("BROKER", values.get("BROKER", "127.0.0.1:8884")),
        device_broker=_address("DEVICE_BROKER", values.get("DEVICE_BROKER", "127.0.0.1:8883")),
        public_url=public_url,
        device_url=device_url,
        allowed_hosts=tuple(name.strip() for name in allowed_hosts.split(",") if name.strip())
        if allowed_hosts
        else tuple(sorted(own_hosts)),
        debug=_flag("DEBUG", values.get("DEBUG", "0")),
        behind_proxy=_flag("BEHIND_PROXY", values.get("BEHIND_PROXY", "0")),
        devices_only=_flag("DEVICES_ONLY", values.get("DEVICES_ONLY", "0")),
        process=values.get("PROCESS", process),
        webhook_hosts=tuple(name.strip() for name in values.get("WEBHOOK_HOSTS", "").split(",") if name.strip()),
    )


def variables_of_note(note: str) -> dict[str, str]:
    """What `up.json` says as variables, so that a command in another terminal names the addresses that were chosen.

    A note that cannot be read says nothing: it is a convenience, and its writer may be of another release.
    """
    try:
        content = json.loads(note)
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    keys = {
        "PUBLIC_URL": "web_url",
        "DEVICE_URL": "device_url",
        "DEVICE_BROKER": "device_broker",
        "BROKER": "internal_broker",
    }
    return {PREFIX + name: content[key] for name, key in keys.items() if isinstance(content.get(key), str)}


def _number(variable: str, values: Mapping[str, str], default: float, of_what: str) -> float:
    text = values.get(variable)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value < math.inf):
        raise EnvironmentInvalidError(variable, text, f"a number of {of_what}, 0 or more")
    return value


def _flag(variable: str, text: str) -> bool:
    match text.lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise EnvironmentInvalidError(variable, text, "1 or 0")


def _address(variable: str, text: str) -> Address:
    expected = "host:port, such as 127.0.0.1:8883 or [::1]:8883"
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise EnvironmentInvalidError(variable, text, expected) from None
    if not host or not port or parts.path or parts.query or parts.username is not None:
        raise EnvironmentInvalidError(variable, text, expected)
    return Address(host, port)


def _url(variable: str, text: str) -> str:
    expected = "an address such as https://fleet.example.org, without a path"
    try:
        parts = urlsplit(text)
        valid_port = parts.port is None or parts.port > 0
    except ValueError:
        raise EnvironmentInvalidError(variable, text, expected) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not valid_port:
        raise EnvironmentInvalidError(variable, text, expected)
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise EnvironmentInvalidError(variable, text, expected)
    return text.rstrip("/")


def _host_of(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


def _database(text: str) -> SqliteFile | PostgresServer:
    expected = "sqlite:/path/to/file, postgres://user:password@host:port/name or postgres://user@/name?host=/socket/dir"
    try:
        parts = urlsplit(text)
        port = parts.port
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise EnvironmentInvalidError("DATABASE_URL", _without_password(text), expected) from None
    match parts.scheme:
        case "sqlite" if not parts.netloc and parts.path.startswith("/") and not parts.query:
            return SqliteFile(Path("/" + unquote(parts.path).lstrip("/")))
        case "postgres" | "postgresql" if len(parts.path) > 1 and set(query) <= {"host", "port"}:
            return PostgresServer(
                host=query["host"][0] if "host" in query else parts.hostname or "",
                port=int(query["port"][0]) if "port" in query and query["port"][0].isdigit() else port,
                name=unquote(parts.path[1:]),
                user=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
            )
        case _:
            raise EnvironmentInvalidError("DATABASE_URL", _without_password(text), expected)


def _without_password(url: str) -> str:
    """Error messages end up in logs, and a database URL may carry a password."""
    scheme, separator, rest = url.partition("://")
    credentials, at, location = rest.rpartition("@")
    return f"{scheme}{separator}{credentials.split(':')[0]}{at}{location}"


def _blobs(text: str) -> LocalBlobs | S3Blobs:
    expected = "file:/path/to/directory or s3://bucket/prefix?endpoint=http://host:port"
    try:
        parts = urlsplit(text)
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise EnvironmentInvalidError("BLOBS", text, expected) from None
    match parts.scheme:
        case "file" if not parts.netloc and parts.path.startswith("/") and not parts.query:
            return LocalBlobs(Path("/" + unquote(parts.path).lstrip("/")))
        case "s3" if parts.netloc and set(query) <= {"endpoint"}:
            return S3Blobs(parts.netloc, parts.path.strip("/"), query["endpoint"][0] if "endpoint" in query else None)
        case _:
            raise EnvironmentInvalidError("BLOBS", text, expected)
