"""The OpenAPI document is valid, and what the server answers to anything generated from it is what the document says."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fleet.domain.experiment import ExperimentSpec
from fleet.domain.policy import RolloutPolicy
from tests.server.api.conftest import Caller
from tests.server.pipeline import Pipeline

EXAMPLES = 10
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def schema_document() -> dict[str, Any]:
    from drf_spectacular.generators import SchemaGenerator

    return dict(SchemaGenerator().get_schema(request=None, public=True))  # type: ignore[no-untyped-call]


def test_document__served_to_anybody__is_openapi_3_1(installed: object, db: None) -> None:
    answer = Caller(None).send("GET", "/schema", None, Accept="application/vnd.oai.openapi+json")
    assert answer.status_code == 200
    assert answer.json()["openapi"] == "3.1.0"


def test_document__examples__are_what_the_parsers_take() -> None:
    paths = schema_document()["paths"]

    def examples(path: str) -> list[dict[str, Any]]:
        body = paths[path]["post"]["requestBody"]["content"]["application/json"]
        return [example["value"] for example in body["examples"].values()]

    plans = examples("/api/v1/plan")
    assert plans == examples("/api/v1/rollouts")
    assert [RolloutPolicy.parse(example["policy"]).preset for example in plans] == ["safe-ramp", "canary-then-all"]
    (experiment,) = examples("/api/v1/experiments")
    assert [arm.name for arm in ExperimentSpec.parse(experiment["spec"]).arms] == ["fp32", "int8"]


@pytest.fixture
def open_connection() -> Iterator[None]:
    """Requests come in through WSGI and must not close the connection that holds the test's transaction."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.mark.slow
def test_every_operation__generated_requests__answered_as_documented(
    released: Pipeline, admin: Caller, open_connection: None
) -> None:
    """A handful of requests for each operation; whoever changes an answer changes its documentation."""
    document = schemathesis.openapi.from_dict(schema_document())
    document.app = WSGIHandler()
    failures: list[str] = []
    for found in document.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy())
        def try_it(case: schemathesis.Case[Any]) -> None:
            case.headers["Authorization"] = admin.headers["Authorization"]
            case.call_and_validate(checks=CHECKS)

        try:
            try_it()
        except Exception as error:  # noqa: BLE001 - all operations are tried before the verdict
            failures.append(f"{operation.label}: {error}")
    assert not failures, "\n\n".join(failures)
