"""What runs where?"""

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from fleet.apps.devices import counts
from fleet.apps.registry import selectors as registry
from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.telemetry import selectors as telemetry
from fleet.entrypoints.ui.access import reader
from fleet.entrypoints.ui.drawings.heat import draw_heat
from fleet.entrypoints.ui.page import moment, render_page
from fleet.entrypoints.ui.queries import text
from fleet.entrypoints.ui.release import delta_sizes

SHOWN_MODELS: Final = 3
"""Heat maps on one page; other models are one link away. Keeps the number of queries constant."""

SHOWN_DECISIONS: Final = 8
SHOWN_ROLLOUTS: Final = 6


@reader
@require_safe
def fleet(request: HttpRequest) -> HttpResponse:
    """The whole fleet on one page: versions by hardware class, what is moving, what was decided."""
    now = moment()
    known = registry.models()
    wanted = text(request, "model")
    chosen = [model for model in known if model.name == wanted] or list(known[:SHOWN_MODELS])
    context = {
        "models": known,
        "maps": [
            (
                model,
                draw_heat(counts.running(model.name, now).rows),
                {item.version: item for item in telemetry.version_overall(model.name, with_devices=False)},
            )
            for model in chosen
        ],
        "others": [model for model in known if model not in chosen],
        "counted": counts.fleet(now),
        "away_after_days": counts.AWAY_AFTER.days,
        "moving": rollouts.rollouts(states=("running", "held", "reverting"), limit=SHOWN_ROLLOUTS),
        "decisions": rollouts.recent_decisions(limit=SHOWN_DECISIONS),
        "savings": delta_sizes([registry.delta_savings(model.name) for model in chosen]),
    }
    return render_page(request, "fleet/now.html", context, section="fleet", now=now, live="fleet/now_live.html")
