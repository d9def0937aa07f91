"""The environment, parsed: what is understood, and what is refused in which words."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.config.environment import (
    Address,
    DeltaLimits,
    Environment,
    EnvironmentInvalidError,
    LocalBlobs,
    PostgresServer,
    S3Blobs,
    SqliteFile,
    parse_environment,
    variables_of_note,
)

ROOT = Path("/srv/modelfleet")


def parse(**variables: str) -> Environment:
    return parse_environment(
        {f"MODELFLEET_{name}": value for name, value in variables.items()}, root=ROOT, process="web"
    )


def test_environment__empty__the_embedded_defaults() -> None:
    assert parse() == Environment(
        home=ROOT / "var/server",
        database=SqliteFile(ROOT / "var/server/db.sqlite3"),
        blobs=LocalBlobs(ROOT / "var/server/blobs"),
        deltas=DeltaLimits(cpu_s=3_600.0, new_bytes=64 << 30, keep_days=14.0),
        broker=Address("127.0.0.1", 8884),
        device_broker=Address("127.0.0.1", 8883),
        public_url="http://127.0.0.1:8000",
        device_url="http://127.0.0.1:8000",
        allowed_hosts=("127.0.0.1", "[::1]", "localhost"),
        debug=False,
        behind_proxy=False,
        devices_only=False,
        process="web",
    )


def test_environment__delta_limits__as_given() -> None:
    found = parse(DELTA_CPU_S="120", DELTA_BYTES="0", DELTA_KEEP_DAYS="0.5").deltas
    assert found == DeltaLimits(cpu_s=120.0, new_bytes=0, keep_days=0.5)


@pytest.mark.parametrize("variable", ["DELTA_CPU_S", "DELTA_BYTES", "DELTA_KEEP_DAYS"])
@pytest.mark.parametrize("text", ["-1", "many", "nan", "inf"])
def test_environment__delta_limit_that_is_none__says_what_was_expected(variable: str, text: str) -> None:
    with pytest.raises(EnvironmentInvalidError, match=f"MODELFLEET_{variable}: got '{text}', expected a number of"):
        parse(**{variable: text})


def test_environment__other_programs_variables__ignored() -> None:
    assert parse_environment({"HOME": "/root", "PORT": "x"}, root=ROOT, process="web") == parse()


def test_environment__variable_set_but_empty__as_if_not_set() -> None:
    assert parse(DATABASE_URL="", PUBLIC_URL="", DEBUG="") == parse()


def test_environment__home__database_blobs_and_secrets_follow() -> None:
    found = parse(HOME="/data/fleet")
    assert found.database == SqliteFile(Path("/data/fleet/db.sqlite3"))
    assert found.blobs == LocalBlobs(Path("/data/fleet/blobs"))
    assert found.secrets == Path("/data/fleet/secrets")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:/data/x.db", SqliteFile(Path("/data/x.db"))),
        ("sqlite:///data/x.db", SqliteFile(Path("/data/x.db"))),
        ("postgres://u:p%40w@db.example:5433/fleet", PostgresServer("db.example", 5433, "fleet", "u", "p@w")),
        ("postgresql://u@db/fleet", PostgresServer("db", None, "fleet", "u", "")),
        ("postgres://u@/fleet?host=/run/postgresql", PostgresServer("/run/postgresql", None, "fleet", "u", "")),
        ("postgres:///fleet?host=/run/pg&port=5444", PostgresServer("/run/pg", 5444, "fleet", "", "")),
    ],
)
def test_database_url__known_form__parsed(url: str, expected: SqliteFile | PostgresServer) -> None:
    assert parse(DATABASE_URL=url).database == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file:/data/blobs", LocalBlobs(Path("/data/blobs"))),
        ("file:///data/blobs", LocalBlobs(Path("/data/blobs"))),
        ("s3://bucket", S3Blobs("bucket", "", None)),
        ("s3://bucket/a/b/?endpoint=http://127.0.0.1:9000", S3Blobs("bucket", "a/b", "http://127.0.0.1:9000")),
    ],
)
def test_blobs__known_form__parsed(text: str, expected: LocalBlobs | S3Blobs) -> None:
    assert parse(BLOBS=text).blobs == expected


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("broker.example:8883", Address("broker.example", 8883), "broker.example:8883"),
        ("[fd00::1]:8883", Address("fd00::1", 8883), "[fd00::1]:8883"),
    ],
)
def test_broker__known_form__parsed_and_shown_the_same(text: str, expected: Address, shown: str) -> None:
    found = parse(DEVICE_BROKER=text).device_broker
    assert found == expected
    assert str(found) == shown


def test_public_url__https__cookies_and_hosts_follow() -> None:
    found = parse(PUBLIC_URL="https://fleet.example.org/", DEVICE_URL="https://devices.example.org:8443")
    assert found.public_url == "https://fleet.example.org"
    assert found.over_tls
    assert {"fleet.example.org", "devices.example.org"} <= set(found.allowed_hosts)


def test_device_url__not_given__the_public_one() -> None:
    assert parse(PUBLIC_URL="https://fleet.example.org").device_url == "https://fleet.example.org"


def test_allowed_hosts__given__replace_the_derived_ones() -> None:
    assert parse(ALLOWED_HOSTS="a.example, b.example,").allowed_hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "mysql://u@h/x"),
        ("DATABASE_URL", "sqlite:relative.db"),
        ("DATABASE_URL", "sqlite:/x?mode=memory"),
        ("DATABASE_URL", "postgres://host"),
        ("DATABASE_URL", "postgres://host:x/name"),
        ("DATABASE_URL", "postgres://host/name?sslmode=off"),
        ("BLOBS", "/data/blobs"),
        ("BLOBS", "file:relative"),
        ("BLOBS", "file://host/data"),
        ("BLOBS", "s3:///prefix"),
        ("BLOBS", "s3://bucket?region=x"),
        ("BROKER", "127.0.0.1"),
        ("BROKER", ":8883"),
        ("BROKER", "host:0"),
        ("BROKER", "host:99999"),
        ("BROKER", "mqtt://host:8883"),
        ("BROKER", "host:8883/path"),
        ("DEVICE_BROKER", "host:port"),
        ("PUBLIC_URL", "fleet.example.org"),
        ("PUBLIC_URL", "ftp://fleet.example.org"),
        ("PUBLIC_URL", "https://fleet.example.org/path"),
        ("PUBLIC_URL", "https://user@fleet.example.org"),
        ("PUBLIC_URL", "https://:8000"),
        ("DEBUG", "maybe"),
        ("BEHIND_PROXY", "2"),
    ],
)
def test_environment__value_makes_no_sense__refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(EnvironmentInvalidError, match=rf"^MODELFLEET_{variable}: got .*, expected "):
        parse(**{variable: value})


@given(
    st.sampled_from(["DATABASE_URL", "BLOBS", "BROKER", "PUBLIC_URL", "ALLOWED_HOSTS", "DEBUG"]), st.text(max_size=60)
)
def test_environment__any_text__parsed_or_refused_by_name(variable: str, value: str) -> None:
    refusal = ""
    try:
        parse(**{variable: value})
    except EnvironmentInvalidError as error:
        refusal = str(error)
    assert refusal == "" or refusal.startswith(f"MODELFLEET_{variable}: got ")


def test_environment__database_password__not_in_the_message() -> None:
    with pytest.raises(EnvironmentInvalidError) as caught:
        parse(DATABASE_URL="mysql://root:hunter2@db/x")
    assert "hunter2" not in str(caught.value)


def test_note__of_a_running_installation__its_addresses_are_used_where_none_are_told() -> None:
    note = (
        '{"web_url": "http://127.0.0.1:8001", "device_url": "https://10.0.0.1:8443", "device_broker": "10.0.0.1:8883",'
        ' "internal_broker": "127.0.0.1:8885", "pids": {"web": 1}}'
    )
    found = parse_environment(variables_of_note(note), root=ROOT, process="shell")
    assert (found.public_url, found.device_url) == ("http://127.0.0.1:8001", "https://10.0.0.1:8443")
    assert (str(found.device_broker), str(found.broker)) == ("10.0.0.1:8883", "127.0.0.1:8885")


@pytest.mark.parametrize("note", ["", "{", "[]", "null", '{"web_url": 5}', '{"web_url": null}'])
def test_note__unreadable__says_nothing(note: str) -> None:
    assert variables_of_note(note) == {}
