"""Fixtures of every tier. What a tier needs alone stands in its own folder's conftest."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, settings
from mypy_boto3_s3 import S3Client

from tests.toolchain import isolation, services

# How fast examples are made says something of the machine, not of the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

TESTS = Path(__file__).parent
IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
MARKED_FOLDERS = {"ui": pytest.mark.ui, "e2e": pytest.mark.e2e}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of a tier by its folder, so that `-m "not e2e"` means what it says."""
    for item in items:
        if item.path.is_relative_to(TESTS):
            mark = MARKED_FOLDERS.get(item.path.relative_to(TESTS).parts[0])
            if mark is not None:
                item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """CI skips nothing: a skipped test is a failed one there, and says why it was skipped."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped at {call.when}, and CI skips nothing: {reason}"
    return report


@pytest.fixture(scope="session")
def django_db_modify_db_settings(request: pytest.FixtureRequest) -> None:
    """SQLite's test database is a real file in this process's own home; PostgreSQL's gets a suffix per worker."""
    from django.db import connections

    default = connections["default"]
    if default.vendor == "sqlite":
        default.settings_dict["TEST"]["NAME"] = str(isolation.HOME / "tests.sqlite3")
    else:
        request.getfixturevalue("django_db_modify_db_settings_parallel_suffix")


@pytest.fixture(scope="session")
def modelfleet_home() -> Path:
    """The MODELFLEET_HOME of this test process: what `settings.MODELFLEET.home` says."""
    return isolation.HOME


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program of an installed Chromium; skips where there is none."""
    found = services.find_chromium()
    if found is None:
        pytest.skip(f"no Chromium: {services.CHROMIUM_HINT}")
    return found


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 (moto) that lives as long as the session; credentials are set for boto3."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with services.moto_server() as endpoint:
            yield endpoint


@pytest.fixture
def s3_bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> str:
    """The name of a new, empty bucket."""
    client: S3Client = boto3.client("s3", endpoint_url=s3_endpoint)
    name = f"bucket-{abs(hash(request.node.nodeid)):x}"
    client.create_bucket(Bucket=name)
    return name
