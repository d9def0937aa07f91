"""The server's one error tree, split by whose fault it is.

Every error has a stable `code` that clients may match on and a message that says what was expected and what came.
The API renders them as problem details; the class decides the status.
"""


class ModelfleetError(Exception):
    """Base of what the server says no with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class RefusedError(ModelfleetError):
    """The caller's fault: repeating the same request is pointless."""


class InvalidInputError(RefusedError):
    """What was sent does not hold together."""


class NotFoundError(RefusedError):
    """What was named does not exist, or not for this caller."""


class ConflictError(RefusedError):
    """What was asked contradicts what is stored."""


class ForbiddenError(RefusedError):
    """The caller may not do this."""


class TooLargeError(RefusedError):
    """More bytes than are allowed here."""


class QuotaError(RefusedError):
    """Too many, too fast."""


class UnavailableError(ModelfleetError):
    """Our fault, for now: the same request may succeed later."""
