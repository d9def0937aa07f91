"""What every command is given: where to write, which server, the environment."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fleet.entrypoints.cli.api import Api
from fleet.entrypoints.cli.console import Console
from fleet.entrypoints.cli.errors import CommandError
from fleet.entrypoints.cli.logins import Login
from fleet.ports.release_server import ServerUnreachableError
from fleet.wiring import cli as wiring


@dataclass(frozen=True)
class Context:
    """Passed to every command."""

    console: Console
    environment: Mapping[str, str]
    login: Login

    def api(self) -> Api:
        """The server of this login. Raises CommandError without a token."""
        if not self.login.token:
            raise CommandError(
                "token_missing", f"no token for {self.login.url}: run `modelfleet login` or set MODELFLEET_TOKEN"
            )
        return api_of(self.login)


def api_of(login: Login) -> Api:
    """The server of a login."""
    try:
        return Api(wiring.release_server(login.url, login.token))
    except ServerUnreachableError as error:
        raise CommandError("server_unreachable", str(error)) from error


Run = Callable[[Context, Namespace], int]
