"""How a device joins and stays: it pins the anchors, shows its claim with a certificate request, renews by its key.

EST-shaped (RFC 7030): base64 PKCS#10 in, base64 certs-only PKCS#7 out. simpleenroll takes a claim as the bearer token;
simplereenroll takes no credential but the request's own signature, which proves the key of an earlier certificate.
"""

import base64
import binascii
from typing import Final

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse

from device_client.wire.enrolment import DEVICE_ID_HEADER, HARDWARE_CLASS_HEADER
from fleet.apps.devices import services as devices
from fleet.apps.trust import selectors as trust_selectors
from fleet.apps.trust import services as trust
from fleet.domain.errors import InvalidInputError, NotFoundError, TooLargeError
from fleet.domain.problems import Problem
from fleet.entrypoints.device_api.answers import device_view, problem_response
from fleet.wiring import fleet_access, server

MAX_REQUEST_BYTES: Final = 16_384


@device_view("GET", "HEAD")
def anchors(_request: HttpRequest) -> HttpResponse:
    """What a device pins: the printed pin is the sha256 of exactly these bytes."""
    content = trust_selectors.anchors(server.certificate_authority().anchor_pem())
    if content is None:
        raise NotFoundError("trust_not_set_up", "expected imported roots, got none: run `modelfleet keys init`")
    return HttpResponse(content, content_type="application/json", headers={"Cache-Control": "no-cache"})


@device_view("GET", "HEAD")
def configuration(_request: HttpRequest) -> HttpResponse:
    """Where things are. Nothing here is trusted further than a hint: the broker and all metadata prove themselves."""
    environment = settings.MODELFLEET
    return JsonResponse(
        {
            "v": 1,
            "broker_host": environment.device_broker.host,
            "broker_port": environment.device_broker.port,
            "image_url": f"{environment.device_url}/image",
            "server_time": int(server.clock().now().timestamp()),
        },
        headers={"Cache-Control": "no-store"},
    )


@device_view("POST")
def simple_enroll(request: HttpRequest) -> HttpResponse:
    """Redeem a claim: the certificate and the device come into being together, or neither does."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        response = problem_response(Problem(401, "claim_missing", "expected a claim as the bearer token, got none"))
        response["WWW-Authenticate"] = "Bearer"
        return response
    csr_der = _certificate_request(request)
    now = server.clock().now()
    with transaction.atomic():
        enrolment = trust.redeem_claim(token=token, csr_der=csr_der, authority=server.certificate_authority(), now=now)
        devices.enrol(
            device_id=enrolment.device_id,
            hardware_class=enrolment.hardware_class,
            attributes=enrolment.attributes,
            now=now,
        )
    answer = _certificates(enrolment.device_id, enrolment.pkcs7_der)
    answer[HARDWARE_CLASS_HEADER] = enrolment.hardware_class
    return answer


@device_view("POST")
def simple_reenroll(request: HttpRequest) -> HttpResponse:
    """Renew: the key of an earlier certificate is proof enough, also when that certificate has lapsed."""
    renewal = fleet_access.renew_certificate(csr_der=_certificate_request(request), now=server.clock().now())
    return _certificates(renewal.device_id, renewal.pkcs7_der)


def _certificates(device_id: str, pkcs7_der: bytes) -> HttpResponse:
    return HttpResponse(
        base64.encodebytes(pkcs7_der),
        content_type="application/pkcs7-mime; smime-type=certs-only",
        headers={
            "Content-Transfer-Encoding": "base64",
            DEVICE_ID_HEADER: device_id,
            "Cache-Control": "no-store",
        },
    )


def _certificate_request(request: HttpRequest) -> bytes:
    body = request.read(MAX_REQUEST_BYTES + 1)
    if len(body) > MAX_REQUEST_BYTES:
        raise TooLargeError("certificate_request_too_large", f"expected at most {MAX_REQUEST_BYTES} bytes, got more")
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError("certificate_request_refused", f"expected base64, got {error}") from error
