"""What keeps a pipeline from being a signing oracle: it signs only on top of what it verified and has not seen surpassed.

A server that is compromised may serve an older role that was validly signed and has not expired. Adding a version to
that would sign a revoked version again. So each key set records what was signed with it, and refuses less.
"""

from collections.abc import Mapping

from fleet.entrypoints.cli.errors import CommandError
from fleet.ports.key_sets import RecordedRole
from fleet.ports.verified_roles import VerifiedRole


def require_not_older(found: VerifiedRole, recorded: Mapping[str, RecordedRole]) -> None:
    """Raise CommandError if `found` is older than what was signed with this key set, or differs at the same version."""
    known = recorded.get(found.name)
    if known is None:
        return
    if found.version < known.version:
        raise CommandError(
            "role_rolled_back",
            f"{found.name}: this key set has signed version {known.version}, but the server publishes version "
            f"{found.version}; nothing is signed on top of an older role",
        )
    if found.version == known.version and found.sha256 != known.sha256:
        raise CommandError(
            "role_forked",
            f"{found.name}: version {found.version} of the server is not the one that this key set has signed "
            f"(sha256 {found.sha256[:16]}, expected {known.sha256[:16]})",
        )


def next_label(found: VerifiedRole | None, server_labels: list[str]) -> str:
    """The next version's label: one more than any number in the signed role or in the server's list.

    The server's list is not trusted, and need not be: the worst it can do is to skip numbers.
    """
    signed = [path.split("/")[2] for path in found.content.targets] if found else []
    numbers = [int(label) for label in (*signed, *server_labels) if label.isdigit()]
    return str(max(numbers, default=0) + 1)
