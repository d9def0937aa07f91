"""What a webhook is told and how it can tell that we said it. Pure.

A delivery is signed over the time of sending and the exact bytes of the body, so that a receiver can refuse old ones.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from fleet.domain.errors import InvalidInputError

MAX_URL_CHARS: Final = 500
MAX_EVENTS: Final = 32
TEST_EVENT: Final = "webhook.test"
EVERYTHING: Final = "*"
_STOPS: Final = "stop"
_ABOUT_NAMESPACES: Final = frozenset({_STOPS, "namespace"})
_EVENT: Final = re.compile(r"\*|[a-z][a-z_]*(\.[a-z][a-z_]*)*(\.\*)?")
_MODEL: Final = re.compile(r"([a-z][a-z0-9-]*)\.[a-z]")


def parse_url(url: str) -> str:
    """An http or https address without credentials and fragment; raises InvalidInputError. Where it leads is asked when
    it is used: names change their addresses.
    """
    expected = "an address such as https://hooks.example.org/modelfleet, without credentials"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        raise InvalidInputError("webhook_url", f"expected {expected}, got {url[:80]!r}") from None
    if not valid or parts.username is not None or parts.fragment or len(url) > MAX_URL_CHARS or not url.isprintable():
        raise InvalidInputError("webhook_url", f"expected {expected}, got {url[:80]!r}")
    return url


def parse_events(events: Sequence[str]) -> tuple[str, ...]:
    """Patterns such as `rollout.revert`, `rollout.*` or `*`; raises InvalidInputError."""
    if not 0 < len(events) <= MAX_EVENTS:
        raise InvalidInputError("webhook_events", f"expected 1 to {MAX_EVENTS} events, got {len(events)}")
    wrong = next((item for item in events if len(item) > MAX_URL_CHARS or not _EVENT.fullmatch(item)), None)
    if wrong is not None:
        raise InvalidInputError("webhook_events", f"expected events such as rollout.* or *, got {wrong[:60]!r}")
    return tuple(sorted(set(events)))


def matches(patterns: Sequence[str], event: str) -> bool:
    """Whether one of the patterns means this event."""
    return any(
        pattern in {"*", event} or (pattern.endswith(".*") and event.startswith(pattern.removesuffix("*")))
        for pattern in patterns
    )


def namespace_of(subject: str, model: str) -> str:
    """The namespace that an act was about: of its model, else of what its subject names; empty if it belongs to none."""
    found = _MODEL.match(model) or _MODEL.match(subject)
    return "" if found is None else found.group(1)


def concerns(namespace: str, event: str, subject: str, model: str) -> bool:
    """Whether an act is about this namespace: about its models, about its own rules, or a stop that reaches it."""
    kind = event.partition(".")[0]
    is_own = subject == namespace and kind in _ABOUT_NAMESPACES
    return is_own or (kind == _STOPS and subject == EVERYTHING) or namespace_of(subject, model) == namespace


def signature(secret: str, body: bytes, sent_at_s: int) -> str:
    """The value of the signature header: `t=<unix time>,v1=<hex of HMAC-SHA256 over "t.body">`."""
    digest = hmac.new(secret.encode(), f"{sent_at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={sent_at_s},v1={digest}"
