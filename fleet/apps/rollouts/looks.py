"""What the conductor saw when it last looked: stored for pages, the REST API and people who advance. For this app only.

A look at a large phase reads tens of thousands of devices. It is worth that to the conductor, once a second; nobody else
repeats it, but for a phase that no conductor has looked at yet.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from fleet.apps.rollouts.models import Look, Rollout
from fleet.apps.rollouts.snapshots import snapshot
from fleet.apps.telemetry.pasts import PastCache
from fleet.domain.conductor import Action, Intent, Snapshot, decide, evaluate
from fleet.domain.policy import RolloutPolicy
from fleet.domain.verdicts import OfferCount

# Figures are as old as this at most; a change of what is said is stored at once.
STORED_EVERY: Final = timedelta(seconds=5)


@dataclass(frozen=True)
class Looked:
    """One look: the gates' judgement as JSON, the offers, and what the conductor would do, with its reason."""

    at: datetime
    action: Action
    sentence: str
    judgement: Mapping[str, Any]
    offers: tuple[OfferCount, ...]


def look(seen: Snapshot, intent: Intent, now: datetime) -> Looked:
    """What was seen and decided. Gates that the decision did not need are judged here."""
    judgement = intent.evidence if "gates" in intent.evidence else evaluate(seen, now).encode()
    return Looked(now, intent.action, intent.sentence, judgement, seen.facts.offers)


def store(row: Rollout, found: Looked) -> None:
    """Keep it, if it says something new or the last one is old. Two statements."""
    gist = _gist(row.phase, found)
    last = Look.objects.filter(pk=row.pk).values_list("gist", "at").first()
    if last is not None and last[0] == gist and abs(found.at - last[1]) < STORED_EVERY:
        return
    Look.objects.bulk_create(
        [
            Look(
                rollout=row,
                phase=row.phase,
                at=found.at,
                action=found.action.value,
                sentence=found.sentence,
                judgement=dict(found.judgement),
                offers=[asdict(item) for item in found.offers],
                gist=gist,
            )
        ],
        update_conflicts=True,
        unique_fields=["rollout"],
        update_fields=["phase", "at", "action", "sentence", "judgement", "offers", "gist"],
    )


def stored(row: Rollout, *, of_phase: int | None = None) -> Looked | None:
    """The last look that was kept, of this phase if one is given."""
    found = Look.objects.filter(pk=row.pk).first()
    if found is None or of_phase not in (None, found.phase):
        return None
    return Looked(
        found.at,
        Action(found.action),
        found.sentence,
        found.judgement,
        tuple(OfferCount(**item) for item in found.offers),
    )


def last(row: Rollout, policy: RolloutPolicy, now: datetime) -> Looked:
    """The conductor's last look at the present phase; a look of our own where it has not looked at that yet."""
    known = stored(row, of_phase=row.phase)
    if known is not None:
        return known
    seen = snapshot(row, policy, now, pasts=PastCache())
    return look(seen, decide(seen, now), now)


def _gist(phase: int, found: Looked) -> str:
    gates = [(item["name"], item["kind"], item["stratum"], item["verdict"]) for item in found.judgement["gates"]]
    said = (phase, found.action.value, gates, found.judgement["notes"])
    return hashlib.sha256(repr(said).encode()).hexdigest()
