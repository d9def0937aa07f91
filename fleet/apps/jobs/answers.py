"""Questions whose answer takes time in proportion to the fleet: a job answers, and who asks again within a minute is told.

For questions that change nothing and may be answered twice. The same question of several people is one job.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from fleet.apps.jobs import selectors, services
from fleet.apps.jobs.models import Answer
from fleet.apps.jobs.records import AnswerRecord
from fleet.domain.errors import UnavailableError

YOUNG: Final = timedelta(seconds=60)
FORGOTTEN_AFTER: Final = timedelta(hours=1)
KEY: Final = "answers"  # where a job's payload names the question


def ask(*, kind: str, question: Mapping[str, object], now: datetime) -> AnswerRecord | None:
    """The answer, at most `YOUNG` old; None while it is looked for. `question` is JSON.

    Raises `UnavailableError` once if the job that was to answer was given up; asking again tries anew.
    """
    key = _key(kind, question)
    row = Answer.objects.filter(pk=key).first()
    if row is not None and row.answered_at is not None and abs(now - row.answered_at) <= YOUNG:
        return AnswerRecord(row.answer or {}, row.answered_at)
    if row is not None and row.answered_at is None:
        given_up = selectors.given_up(kind=kind, keys=[key])
        if key not in given_up:
            return None
        if given_up[key]:
            Answer.objects.filter(pk=key, answered_at=None).delete()
            raise UnavailableError("count_failed", f"the devices could not be counted: {given_up[key]:.300}")
    Answer.objects.filter(asked_at__lt=now - FORGOTTEN_AFTER).delete()
    Answer.objects.update_or_create(pk=key, defaults={"answer": None, "asked_at": now, "answered_at": None})
    services.enqueue(kind=kind, key=key, payload={**question, KEY: key}, now=now, priority=services.PEOPLE_WAIT)
    return None


def give(*, payload: Mapping[str, object], answer: Mapping[str, Any], now: datetime) -> None:
    """Keep what a job with this payload found."""
    Answer.objects.filter(pk=payload[KEY]).update(answer=answer, answered_at=now)


def _key(kind: str, question: Mapping[str, object]) -> str:
    return f"{kind}:{hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()}"
