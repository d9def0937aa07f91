"""How does a device join?"""

import hashlib
import shlex
from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from fleet.apps.devices import counts
from fleet.apps.registry import selectors as registry
from fleet.apps.trust import selectors as trust
from fleet.apps.trust import services
from fleet.domain.errors import RefusedError
from fleet.entrypoints.ui.access import actor_of, operator
from fleet.entrypoints.ui.forms import ClaimForm
from fleet.entrypoints.ui.page import moment, render_page
from fleet.wiring import installation

RECENT_CLAIMS: Final = 12
FIELD_OF_CODE: Final = {"device_id": "device_id", "hardware_class": "hardware_class", "attributes": "attributes"}


@operator
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def enrol(request: HttpRequest) -> HttpResponse:
    """The form; after it was sent, the one-line command. The token in it is shown this once and never again."""
    now = moment()
    anchors = trust.anchors(installation.device_authority().anchor_pem())
    form = ClaimForm(request.POST if request.method == "POST" else None)
    context: dict[str, object] = {"form": form, "is_ready": anchors is not None}
    status = 200
    if request.method == "POST" and anchors is not None:
        status = 422
        if form.is_valid():
            try:
                claim, token = services.create_claim(**form.cleaned_data, actor=actor_of(request), now=now)
            except RefusedError as error:
                form.add_error(FIELD_OF_CODE.get(error.code), error.message)
            else:
                context |= {"claim": claim, "command": _command(claim.device_id, token, anchors), "form": ClaimForm()}
                status = 200
    context |= {
        "classes": counts.hardware_classes(),
        "models": registry.models(),
        "claims": trust.claims(limit=RECENT_CLAIMS),
    }
    return render_page(request, "enrol/enrol.html", context, section="enrol", now=now, status=status)


def _command(device_id: str, token: str, anchors: bytes) -> str:
    pin = hashlib.sha256(anchors).hexdigest()
    words = ("modelfleet-device", "enroll", settings.MODELFLEET.device_url, "--token", token, "--pin", pin)
    return shlex.join((*words, "--state", device_id))
