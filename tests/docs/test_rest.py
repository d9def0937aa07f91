"""The table of addresses in docs/rest.md is the table of routes and scopes in the code."""

import re
from pathlib import Path

from django.urls import URLPattern

from fleet.domain.scopes import Scope
from fleet.entrypoints.api import urls

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "rest.md"
NOT_LISTED = {"schema", "no-such-address"}


def test_addresses__in_the_document__are_those_of_the_code() -> None:
    rows = []
    for pattern in urls.urlpatterns:
        assert isinstance(pattern, URLPattern)
        if pattern.name in NOT_LISTED:
            continue
        address = "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", str(pattern.pattern))
        scopes = getattr(pattern.callback, "view_class").scopes  # noqa: B009 - Django's views carry their class untyped
        rows.append(f"| `{address}` | {', '.join(f'{method} `{scope.value}`' for method, scope in scopes.items())} |")
    listed = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `/")]
    assert listed == rows


def test_scopes__in_the_document__are_all_of_them() -> None:
    listed = re.findall(r"^\| `([a-z:]+)` \| .* \| (?:yes|no) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(scope.value for scope in Scope)
