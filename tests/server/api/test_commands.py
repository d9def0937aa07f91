"""The commands that give the first access."""

import shlex
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.server.api.conftest import Caller
from tests.server.pipeline import Pipeline


def run(*words: str) -> str:
    out = StringIO()
    call_command(*words, stdout=out)
    return out.getvalue().strip()


def test_issue_token__printed_alone__works(installed: Path, db: None) -> None:
    token = run("issue_token", "--name", "ci", "--scopes", "model:write:vision, read", "--days", "1")
    assert Caller(token).get("/me")["scopes"] == ["model:write:vision", "read"]


@pytest.mark.parametrize(
    "words",
    [
        ("--scopes", "root"),
        ("--scopes", ","),
        ("--scopes", "read", "--days", "1000"),
        ("--scopes", "read", "--user", "ada"),
    ],
)
def test_issue_token__impossible__one_line(installed: Path, db: None, words: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match="expected"):
        run("issue_token", "--name", "ci", *words)


def test_create_claim__prints_the_command_for_the_device(released: Pipeline) -> None:
    words = shlex.split(run("create_claim", "cam-0001", "--hardware-class", "edge-std", "--attribute", "site=a"))
    assert words[:2] == ["modelfleet-device", "enroll"]
    assert words[words.index("--token") + 1].startswith("mfc_")
    assert len(words[words.index("--pin") + 1]) == 64


def test_create_claim__before_the_ceremony__says_what_to_do(installed: Path, db: None) -> None:
    with pytest.raises(CommandError, match="keys init"):
        run("create_claim", "cam-0001", "--hardware-class", "edge-std")


def test_create_claim__impossible_name__one_line(released: Pipeline) -> None:
    with pytest.raises(CommandError, match="expected a device id"):
        run("create_claim", "CAM", "--hardware-class", "edge-std")
