"""What the test of the gateway's processes puts into their database, and reads from it. Runs inside `manage.py shell`."""

import json
from datetime import UTC, datetime

from securesystemslib.signer import Signer

from device_client.wire.bucketing import BUCKETS
from fleet.apps.assignments import services as assignments
from fleet.apps.devices import services as devices
from fleet.apps.registry import selectors as registry
from fleet.apps.telemetry import selectors as telemetry
from fleet.apps.trust import services as trust
from fleet.domain import repository as roles
from fleet.domain.facts import RuleState
from fleet.domain.policy import RolloutPolicy
from fleet.wiring import server
from tests.server.catalogue import MODEL, make_version
from tests.server.ceremony import new_signer


def seed(device_ids: list[str]) -> None:
    """Roots for the installation's own online keys, enrolled devices, one rule; prints the model's plan key."""
    now = datetime.now(tz=UTC)
    root, targets, director_root = new_signer(), new_signer(), new_signer()
    online = server.online_keys()
    image = roles.image_root(
        root_keys=[root.public_key],
        targets_keys=[targets.public_key],
        snapshot_key=online.snapshot,
        timestamp_key=online.timestamp,
        threshold=1,
        now=now,
    )
    director = roles.director_root(
        root_keys=[director_root.public_key], online_key=online.director, threshold=1, now=now
    )
    signers: dict[str, Signer] = {"root": root, "targets": targets, "director": director_root}
    trust.import_roots(
        image_root=roles.signed(image, [signers["root"]]),
        image_targets=roles.signed(roles.image_targets(now=now), [signers["targets"]]),
        director_root=roles.signed(director, [signers["director"]]),
        online=online,
        actor="test",
        now=now,
    )
    for device_id in device_ids:
        devices.enrol(device_id=device_id, hardware_class="edge-std", attributes={}, now=now)
    release = make_version("1")
    rule_id = assignments.create_rule(
        source="r-000000000001",
        model=MODEL,
        version_id=release.id,
        seed="s1",
        policy=RolloutPolicy.parse({"phases": [{"share": 1}], "allow_delta": False}),
        now=now,
    )
    assignments.set_rule(rule_id=rule_id, state=RuleState.RUNNING, phase=0, treated_end=BUCKETS, now=now)
    print(json.dumps({"plan_key": registry.model(MODEL).plan_key, "digest": release.digest}))


def totals() -> None:
    """Print what ingest stored."""
    print(json.dumps({row.version: row.n for row in telemetry.version_overall(MODEL)}))
