"""`modelfleet login` and `whoami`."""

import sys
from argparse import Namespace

from fleet.entrypoints.cli.console import describe
from fleet.entrypoints.cli.context import Context, api_of
from fleet.entrypoints.cli.errors import CommandError, ExitCode
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.logins import Login, save_login


def register(commands: Commands) -> None:
    """Add the parsers."""
    login = commands.add("login", run_login, "check a token and store it for later commands")
    login.add_argument("address", metavar="URL", help="the server, such as https://fleet.example.org")
    login.add_argument("--token", help="an API token (else $MODELFLEET_TOKEN, else read from standard input)")
    commands.add("whoami", run_whoami, "which server, which token, which scopes")


def run_login(context: Context, arguments: Namespace) -> int:
    """Ask the server before storing: a token that does not work is not worth keeping."""
    token = arguments.token or context.environment.get("MODELFLEET_TOKEN") or sys.stdin.readline().strip()
    if not token:
        raise CommandError("token_missing", "expected a token with --token or on standard input, got none")
    login = Login(arguments.address.rstrip("/"), token)
    me = api_of(login).get("/me")
    path = save_login(context.environment, login)
    context.console.result(
        {"url": login.url, "config": str(path), "me": me},
        f"logged in at {login.url} as {me.get('name')}; kept in {path}",
    )
    return ExitCode.HEALTHY


def run_whoami(context: Context, _: Namespace) -> int:
    """What the server makes of the token."""
    me = {"url": context.login.url, **context.api().get("/me")}
    context.console.result(me, *describe(me))
    return ExitCode.HEALTHY
