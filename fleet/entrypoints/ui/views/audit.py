"""Who did what?"""

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from fleet.apps.audit import selectors
from fleet.entrypoints.ui.access import reader
from fleet.entrypoints.ui.page import moment, render_page
from fleet.entrypoints.ui.queries import positive, query, text

PAGE_ROWS: Final = 50


@reader
@require_safe
def audit(request: HttpRequest) -> HttpResponse:
    """The audit log, newest first, of everything or of one subject."""
    subject = text(request, "subject")
    rows = selectors.entries(subject=subject, before_id=positive(request, "before"), limit=PAGE_ROWS + 1)
    shown = rows[:PAGE_ROWS]
    older = query({"subject": subject, "before": shown[-1].id}) if len(rows) > PAGE_ROWS else ""
    context = {"entries": shown, "subject": subject, "older": older, "is_first": "before" not in request.GET}
    return render_page(request, "audit/list.html", context, section="audit", now=moment())
