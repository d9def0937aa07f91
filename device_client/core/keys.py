"""Under which keys the journal remembers things that more than one module reads."""

from typing import Final

FLOOR_KEY: Final = "time_floor"
DIRECTOR_KEY: Final = "director_version"
SNAPSHOT_KEY: Final = "image_snapshot_version"
CLEAN_KEY: Final = "clean_stop"
REFUSED_KEY: Final = "refused_bundles"
LAST_REFUSAL_KEY: Final = "last_refusal"
LAST_CHECK_KEY: Final = "last_check_at"
RENEWED_KEY: Final = "certificate_received_at"
RENEWAL_TROUBLE_KEY: Final = "renewal_trouble"
PART: Final = ".part."  # before the name of a file whose bytes are not all there yet
STREAM: Final = ".stream."  # before the name of a file that a patch is making while it comes: a directory
GIVEN_UP: Final = "given-up"  # in such a directory: a slot whose file is about to be used up by an update in place


def answer_key(model: str) -> str:
    """The last signed answer for a model, and what came of it."""
    return f"answer:{model}"


def plan_key(model: str) -> str:
    """The revision of the plan notice that was acted upon."""
    return f"plan:{model}"


def progress_key(model: str) -> str:
    """What is being fetched."""
    return f"progress:{model}"


def shadow_key(model: str) -> str:
    """The digest that runs, or is to run, beside what is served; empty where none is."""
    return f"shadow:{model}"


def pairs_key(model: str) -> str:
    """What was compared beside what is served and has no label yet."""
    return f"pairs:{model}"


def serving_key(model: str) -> str:
    """Under which label the current slot is served."""
    return f"serving:{model}"
