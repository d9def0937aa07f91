"""How stored words look to people: every state, verdict and outcome with its tone, its sign and its plain name.

Meaning never hangs on colour alone: each badge carries a sign and a word. A word that is not listed here is shown as it
is, in neutral grey.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Badge:
    """A word as the pages show it. `tone` is a class of the stylesheet, `icon` a symbol of icons.svg."""

    tone: str
    icon: str
    word: str


BADGES: Final[Mapping[str, Badge]] = {
    # rollouts
    "draft": Badge("", "none", "draft"),
    "awaiting_approval": Badge("warn", "person", "awaiting approval"),
    "scheduled": Badge("", "wait", "scheduled"),
    "running": Badge("accent", "run", "running"),
    "held": Badge("warn", "hold", "held"),
    "completed": Badge("good", "good", "completed"),
    "reverting": Badge("bad", "revert", "reverting"),
    "reverted": Badge("bad", "revert", "reverted"),
    "cancelled": Badge("", "none", "cancelled"),
    "withdrawn": Badge("", "none", "withdrawn"),
    # verdicts
    "pass": Badge("good", "good", "pass"),
    "fail": Badge("bad", "bad", "fail"),
    "wait": Badge("accent", "wait", "wait"),
    "inconclusive": Badge("warn", "warn", "inconclusive"),
    "carried": Badge("good", "good", "carried over"),
    # what was decided
    "submit": Badge("", "wait", "submit"),
    "approve": Badge("good", "good", "approve"),
    "start": Badge("accent", "run", "start"),
    "advance": Badge("good", "advance", "advance"),
    "complete": Badge("good", "good", "complete"),
    "hold": Badge("warn", "hold", "hold"),
    "resume": Badge("accent", "run", "resume"),
    "revert": Badge("bad", "revert", "revert"),
    "cancel": Badge("", "none", "cancel"),
    "override_quiet": Badge("accent", "run", "go on in quiet hours"),
    # findings about a plan
    "error": Badge("bad", "bad", "refused"),
    "warning": Badge("warn", "warn", "warning"),
    "note": Badge("", "none", "note"),
    # experiments
    "decided": Badge("good", "good", "decided"),
    "promoted": Badge("good", "advance", "promoted"),
    "stopped": Badge("", "hold", "stopped"),
    "ship": Badge("good", "good", "ship"),
    "harm": Badge("bad", "bad", "harm"),
    "mismatch": Badge("bad", "warn", "not comparable"),
    "better": Badge("good", "good", "better"),
    "worse": Badge("bad", "bad", "worse"),
    "create": Badge("", "none", "draft"),
    "drop": Badge("bad", "bad", "arm dropped"),
    "decide": Badge("accent", "good", "decide"),
    "extend": Badge("accent", "wait", "extend"),
    "promote": Badge("good", "advance", "promote"),
    "stop": Badge("warn", "hold", "stop"),
    "release": Badge("", "none", "arms dissolved"),
    # versions, deltas
    "publishing": Badge("accent", "wait", "publishing"),
    "published": Badge("good", "good", "published"),
    "revoked": Badge("bad", "bad", "revoked"),
    "queued": Badge("accent", "wait", "queued"),
    "ready": Badge("good", "good", "ready"),
    "useless": Badge("", "none", "no smaller"),
    "left_out": Badge("warn", "hold", "left out"),
    "expired": Badge("", "none", "expired"),
    # devices and their updates
    "active": Badge("good", "good", "active"),
    "quarantined": Badge("warn", "warn", "quarantined"),
    "idle": Badge("", "none", "idle"),
    "assigned": Badge("accent", "wait", "assigned"),
    "preflight": Badge("accent", "wait", "preflight"),
    "downloading": Badge("accent", "wait", "downloading"),
    "verifying": Badge("accent", "wait", "verifying"),
    "staged": Badge("accent", "wait", "staged"),
    "self_testing": Badge("accent", "wait", "self-testing"),
    "activating": Badge("accent", "wait", "activating"),
    "probation": Badge("accent", "wait", "probation"),
    "committed": Badge("good", "good", "committed"),
    "rolling_back": Badge("bad", "revert", "rolling back"),
    "rolled_back": Badge("bad", "revert", "rolled back"),
    "superseded": Badge("", "none", "superseded"),
    "halted": Badge("warn", "hold", "halted"),
    "pending": Badge("accent", "wait", "pending"),
    "failed": Badge("bad", "bad", "failed"),
    "delivered": Badge("good", "good", "delivered"),
    "silent": Badge("warn", "warn", "silent"),
    # answers to a check
    "now": Badge("good", "good", "now"),
    "later": Badge("accent", "wait", "later"),
    "nothing": Badge("", "none", "nothing"),
    "treated": Badge("accent", "run", "treated"),
    "control": Badge("", "none", "control"),
    "baseline": Badge("", "none", "baseline"),
    # steps of an explanation
    "taken": Badge("good", "good", "taken"),
    "passed": Badge("", "none", "passed by"),
    "refused": Badge("warn", "bad", "refused"),
}


def badge_for(word: str) -> Badge:
    """The badge of a stored word."""
    return BADGES.get(word, Badge("", "none", word.replace("_", " ")))


def bytes_in_words(count: float) -> str:
    """`4.5 MB`: decimal units, at most three figures."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":  # noqa: PLR2004 - where three figures end
            digits = 0 if unit == "B" or abs(size) >= 99.95 else 1  # noqa: PLR2004
            return f"{size:.{digits}f} {unit}"
        size /= 1000
    raise AssertionError("the last unit takes every size")


def span_in_words(seconds: float) -> str:
    """`48 s`, `7 min`, `3 h`, `2 d`: the largest whole unit."""
    span = abs(seconds)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if span >= size:
            return f"{int(span // size)} {unit}"
    return f"{int(span)} s"


def age_in_words(seconds: float) -> str:
    """`7 min ago`, `now`, `in 3 h`."""
    if abs(seconds) < 5:  # noqa: PLR2004 - nobody cares which of them
        return "now"
    return f"{span_in_words(seconds)} ago" if seconds > 0 else f"in {span_in_words(seconds)}"


_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SHORT_DIGEST: Final = 12
_NEXT_GATE: Final = re.compile(r"; (?=(?:PASS|FAIL|WAIT|INCONCLUSIVE|BETTER): )")
_VERDICT_HEAD: Final = re.compile(r"^(PASS|FAIL|WAIT|INCONCLUSIVE|BETTER): ")
_CARRIED_HEAD: Final = re.compile(r": (?:PASS|FAIL|WAIT|INCONCLUSIVE): ")


def without_verdict(sentence: str) -> str:
    """A gate's sentence without the verdict at its head, which a badge beside it says, and with a capital.

    A verdict that was carried over has another one inside; that goes too.
    """
    rest = _CARRIED_HEAD.sub(": ", _VERDICT_HEAD.sub("", sentence))
    return rest[:1].upper() + rest[1:]


def gist(sentence: str) -> str:
    """What matters of a sentence that strings several gates together: those that did not pass, or how many passed.

    A decision keeps the whole of it; lists have room for this.
    """
    gates = _NEXT_GATE.split(sentence)
    passed = [gate for gate in gates if gate.startswith("PASS: ")]
    if len(passed) == len(gates) > 1:
        return f"All {len(gates)} gates passed"
    return "; ".join(without_verdict(gate) for gate in gates if gate not in passed or len(gates) == 1)


def told(value: object) -> str:
    """A value of recorded detail (JSON) for people: digests by their head, sentences by their gist, lists with commas."""
    match value:
        case Mapping():
            return ", ".join(f"{name} {told(item)}" for name, item in value.items()) or "none"
        case list() | tuple():
            return ", ".join(told(item) for item in value) or "none"
        case None | "":
            return "none"
        case bool():
            return "yes" if value else "no"
        case str() if _SHA256.fullmatch(value):
            return value[:_SHORT_DIGEST]
        case str():
            return gist(value) if _VERDICT_HEAD.match(value) else value
        case _:
            return str(value)
