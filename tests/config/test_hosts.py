"""A request for a host that this server is not known by."""

import logging

import pytest
from django.test import Client


@pytest.mark.parametrize("path", ["/api/v1/models", "/api/nothing", "/image/root.json", "/healthz", "/"])
@pytest.mark.parametrize("host", ["evil.example", "a b", "127.0.0.1@evil.example", "x" * 500, "\x00"])
def test_host__unknown__problem_document_and_one_line_in_the_log(
    path: str, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        answer = Client().get(path, HTTP_HOST=host)
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert answer.json()["code"] == "host_unknown"
    assert repr(host[:80]) in answer.json()["detail"]
    assert [(record.name, record.exc_info) for record in caplog.records] == [("fleet.config.hosts", None)]


def test_host__unknown_and_a_browser_asks__one_sentence_as_plain_text() -> None:
    answer = Client().get("/", HTTP_HOST="<script>.example", HTTP_ACCEPT="text/html,*/*")
    assert (answer.status_code, answer["Content-Type"]) == (400, "text/plain; charset=utf-8")
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer.content.decode() == "expected a host that this server is known by, got '<script>.example'\n"


def test_host__known__is_served() -> None:
    assert Client().get("/healthz", HTTP_HOST="127.0.0.1:8000").status_code == 200
