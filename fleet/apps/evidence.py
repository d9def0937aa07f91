"""How Django's admin shows rows that are evidence: to read, never to add, change or delete.

Rows are written by services, which hold the rules; a form that saves around them would break what the rows prove.
"""

from typing import Any

from django.db.models import Model
from django.http import HttpRequest
from unfold.admin import ModelAdmin


class EvidenceAdmin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """A list and a page for each row, without a way to write."""

    list_per_page = 50
    show_full_result_count = False

    def has_add_permission(self, _request: HttpRequest, *_args: Any) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Model | None = None) -> bool:
        """Nobody."""
        return False
