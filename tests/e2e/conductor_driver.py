"""What the test of several conductors runs inside an installation's processes (`manage.py shell`).

`conduct_until` is a conductor with one addition: at a chosen moment it says that it is there and waits to be told to go
on, so that a test can stop or kill the process at exactly that moment.
"""

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleet.apps.rollouts import selectors, services
from fleet.entrypoints.gateway.conductor import Conductor
from fleet.wiring import server
from tests.server.catalogue import MODEL, make_model
from tests.server.story import Story

POLICY = {
    "phases": [{"share": 1.0, "min_duration_s": 1, "deadline_s": 3_600}],
    "control_share": 0.0,
    "gates": {"install_failures": {"max_share": 0.2, "min_installed_share": 0.8}},
    "allow_delta": False,
}
MOMENTS = {"decided": "decide", "in the transaction": "decision_record"}


def seed() -> None:
    """Sixteen devices that have installed version 1, so that the next look completes its rollout."""
    make_model()
    story = Story()
    story.now = datetime.now(UTC)
    story.push("1")
    rollout = story.start("1", POLICY, "s1")
    story.check()
    print(json.dumps({"rollout": rollout.id}))


def state() -> None:
    """Print where the rollout stands and what was decided about it."""
    (rollout,) = selectors.rollouts(model=MODEL)
    actions = [item.action for item in reversed(selectors.decisions(rollout.id))]
    print(json.dumps({"state": rollout.state.value, "revision": rollout.revision, "actions": actions}))


def conduct_until(moment: str, directory: str) -> None:
    """Conduct; at `moment` write the file `there` and wait for the file `go`. Then one look more, and what came of it."""
    here = Path(directory)
    name = MOMENTS[moment]
    real: Callable[..., Any] = getattr(services, name)

    def pausing(*arguments: Any) -> Any:
        made = real(*arguments)
        (here / "there").touch()
        while not (here / "go").exists():
            time.sleep(0.02)
        return made

    setattr(services, name, pausing)
    conductor = Conductor("first", server.clock(), threading.Event())
    while True:
        seen = conductor.turn()
        if (here / "there").exists():
            failures = [str(failure.error) for failure in seen.failures]
            (here / "result.part").write_text(json.dumps({"decisions": len(seen.decisions), "failures": failures}))
            (here / "result.part").rename(here / "result")
            return
        time.sleep(0.2)
