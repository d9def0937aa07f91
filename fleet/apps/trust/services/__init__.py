"""Everything that changes what the trust app stores. One module a subject; callers import from here."""

from fleet.apps.trust.services.director import sign_director_bundle
from fleet.apps.trust.services.enrolment import create_claim, redeem_claim, renew_certificate, revoke_device
from fleet.apps.trust.services.image_repository import (
    import_roots,
    rotate_root,
    stage_image_targets,
    stage_role,
    verify_role,
)
from fleet.apps.trust.services.publication import publish_staged
from fleet.apps.trust.services.requests import begin_request, finish_request, forget_request
from fleet.apps.trust.services.tokens import authenticate_token, issue_token, revoke_token

__all__ = [
    "authenticate_token",
    "begin_request",
    "create_claim",
    "finish_request",
    "forget_request",
    "import_roots",
    "issue_token",
    "publish_staged",
    "redeem_claim",
    "renew_certificate",
    "revoke_device",
    "revoke_token",
    "rotate_root",
    "sign_director_bundle",
    "stage_image_targets",
    "stage_role",
    "verify_role",
]
