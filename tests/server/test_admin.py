"""Django's admin: every table can be read by its people, and none can be written there."""

from collections.abc import Iterator

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import Model
from django.test import Client

from fleet.apps.audit import services as audit
from fleet.apps.evidence import EvidenceAdmin
from tests.server.catalogue import NOW, make_version

pytestmark = pytest.mark.django_db


def evidence() -> Iterator[type[Model]]:
    for model, registered in admin.site._registry.items():
        if isinstance(registered, EvidenceAdmin):
            yield model


def address(model: type[Model], page: str) -> str:
    return f"/admin/{model._meta.app_label}/{model._meta.model_name}/{page}"


def test_admin__every_table__lists_and_refuses_to_write() -> None:
    make_version("1")
    client = Client()
    client.force_login(User.objects.create_superuser("ada", password="x"))
    models = list(evidence())
    assert {model._meta.app_label for model in models} >= {
        "assignments", "audit", "devices", "jobs", "outbox", "rollouts", "telemetry",
    }  # fmt: skip
    for model in models:
        assert client.get(address(model, "")).status_code == 200, model
        assert client.get(address(model, "add/")).status_code == 403, model


def test_admin__one_row__is_shown_without_a_way_to_delete_it() -> None:
    audit.record(actor="ada", action="a", subject="s", detail={"why": "because"}, now=NOW)
    client = Client()
    client.force_login(User.objects.create_superuser("ada", password="x"))
    entry = next(model for model in evidence() if model._meta.label == "audit.Entry")
    row = entry._default_manager.get()
    page = client.get(address(entry, f"{row.pk}/change/"))
    assert page.status_code == 200
    assert b"because" in page.content
    assert client.post(address(entry, f"{row.pk}/delete/"), {"post": "yes"}).status_code == 403
    assert client.post(address(entry, f"{row.pk}/change/"), {"actor": "eve"}).status_code == 403


def test_admin__not_staff__is_sent_to_the_login() -> None:
    client = Client()
    client.force_login(User.objects.create_user("eve", password="x"))
    page = client.get("/admin/")
    assert page.status_code == 302
