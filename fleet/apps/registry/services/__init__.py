"""Everything that changes what the registry stores. One module a subject; callers import from here."""

from fleet.apps.registry.services.catalogue import (
    create_model,
    create_namespace,
    delete_alias,
    set_alias,
    set_namespace,
)
from fleet.apps.registry.services.delta_builds import Workshop, build_delta
from fleet.apps.registry.services.delta_review import request_review, review_deltas
from fleet.apps.registry.services.deltas import request_deltas, request_plan, settle_abandoned
from fleet.apps.registry.services.finalisation import finalise_version
from fleet.apps.registry.services.roles import mark_published, revoke_version, settle_published, stage_model_role
from fleet.apps.registry.services.uploads import append_upload, begin_upload, sweep_blobs, upload_state

__all__ = [
    "Workshop",
    "append_upload",
    "begin_upload",
    "build_delta",
    "create_model",
    "create_namespace",
    "delete_alias",
    "finalise_version",
    "mark_published",
    "request_deltas",
    "request_plan",
    "request_review",
    "review_deltas",
    "revoke_version",
    "set_alias",
    "set_namespace",
    "settle_abandoned",
    "settle_published",
    "stage_model_role",
    "sweep_blobs",
    "upload_state",
]
