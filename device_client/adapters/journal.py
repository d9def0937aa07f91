"""`ports.Journal` in SQLite: deployments, deny-list and remembered values."""

import json
from collections.abc import Mapping, Sequence

from device_client.adapters.database import Database
from device_client.adapters.outbox import insert
from device_client.core.deployment import Deployment
from device_client.ports import Draft
from device_client.wire.errors import WireError
from device_client.wire.messages import Denied
from device_client.wire.states import FailureCode, UpdateState
from device_client.wire.topics import Up


class SqliteJournal:
    """The journal. A row that this code cannot read stands for an update that must be rolled back."""

    def __init__(self, database: Database, boot: str) -> None:
        self._database = database
        self._boot = boot

    def deployments(self) -> Mapping[str, Deployment]:
        rows = self._database.rows("SELECT model, body FROM deployment ORDER BY model")
        return {str(model): _read(str(model), str(body)) for model, body in rows}

    def record(
        self, deployment: Deployment, reports: Sequence[tuple[Up, Draft]] = (), denied: Sequence[Denied] = ()
    ) -> None:
        body = json.dumps(deployment.encode(), separators=(",", ":"))
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO deployment (model, body) VALUES (?, ?) "
                "ON CONFLICT (model) DO UPDATE SET body = excluded.body",
                (deployment.model, body),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO denied (model, digest, rollout) VALUES (?, ?, ?)",
                [(deployment.model, item.digest, item.rollout) for item in denied],
            )
            insert(connection, self._boot, reports)

    def denied(self, model: str) -> tuple[Denied, ...]:
        rows = self._database.rows(
            "SELECT digest, rollout FROM denied WHERE model = ? ORDER BY rowid DESC LIMIT 64", (model,)
        )
        return tuple(Denied(str(digest), str(rollout)) for digest, rollout in rows)

    def recall(self, key: str) -> str | None:
        rows = self._database.rows("SELECT value FROM remembered WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def remember(self, values: Mapping[str, str]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO remembered (key, value) VALUES (?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                list(values.items()),
            )

    def take_requests(self) -> Sequence[str]:
        if not self._database.rows("SELECT 1 FROM request LIMIT 1"):
            return []
        with self._database.transaction() as connection:
            rows = connection.execute("DELETE FROM request RETURNING model").fetchall()
        return sorted({str(row[0]) for row in rows})

    def request(self, model: str) -> None:
        """Ask the agent, which may be another process, for the previous version of a model."""
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO request (verb, model) VALUES ('rollback', ?)", (model,))


def _read(model: str, body: str) -> Deployment:
    """The stored deployment; one of an unknown form rolls back to whatever slot is safe."""
    try:
        return Deployment.parse(json.loads(body))
    except (WireError, ValueError, KeyError) as error:
        return Deployment(
            model=model,
            state=UpdateState.ROLLING_BACK,
            failure=FailureCode.INTERNAL,
            detail=f"unknown stored state: {error}"[:300],
        )
