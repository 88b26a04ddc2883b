"""Brings the Lua modules into running Tarantool servers, and makes users who may do no more than they must.

    python -m consumers.install tarantool://admin:…@host:3301 --user consumer --user producer

Servers that are started with docker/tarantool/instance.lua load their modules themselves. Others lose the
code with each restart, and are installed again; what lies in their spaces stays.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from aggregator.errors import AggregatorError, ConfigurationError
from aggregator.version import add_version
from consumers.lua import sources
from consumers.tarantool import Tarantool, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROLES = ("consumer", "producer", "operator")
#: A replica waits so long for its writer's migrations, and some more.
_PATIENCE = 60.0
_LOAD = """
local sources = ...
local loader = assert(loadstring(sources.aggregator, '=aggregator.lua'))()
rawset(_G, 'aggregator', loader)
sources.aggregator = nil
return loader.load(sources)
"""


def install(
    url: str, modules: Mapping[str, str] | None = None, users: Mapping[str, tuple[str, str]] | None = None
) -> dict[str, dict[str, int]]:
    """Load modules into each server of the URL, whose user has to be an administrator.

    ``modules``: name to Lua source, put beside those of this package. ``users``: name to (password, role),
    the role being ``consumer``, ``producer`` or ``operator``; they are made on the writers. Running modules
    are replaced: who has taken tasks keeps them. Returns the versions by module, for each server. Raises
    ``TarantoolUnavailableError``, or ``TarantoolError`` with what a server says.
    """
    every = sources() | dict(modules or {})
    versions = {}
    with ExitStack() as stack:
        servers = [stack.enter_context(closing(Tarantool(address))) for address in parse_url(url)]
        read_only = {server: bool(server.eval("return box.info.ro")[0]) for server in servers}
        # spaces are made by writers, and replicas wait for them
        for server in sorted(servers, key=lambda server: read_only[server]):
            versions[str(server.address)] = server.eval(_LOAD, every, wait=_PATIENCE)[0]
            if users and not read_only[server]:
                rows = [[name, password, role] for name, (password, role) in users.items()]
                server.call("aggregator.users", rows)
    return versions


def main(arguments: Sequence[str] | None = None) -> int:
    """Install; exit code 1 if a server refuses or does not answer, 2 for a wrong call."""
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m consumers.install", description=summary)
    add_version(parser)
    parser.add_argument(
        "url",
        nargs="?",
        default=os.environ.get("INSTANCE_URL", ""),
        help="tarantool://admin:password@host:port,host2:port2; or in INSTANCE_URL: no process list shows it",
    )
    parser.add_argument(
        "--user",
        action="append",
        choices=ROLES,
        default=[],
        help="make this user, with the password in INSTANCE_<USER>_PASSWORD",
    )
    given = parser.parse_args(arguments)
    try:
        versions = install(given.url, users={user: (_password(user), user) for user in given.user})
    except ConfigurationError as exc:
        parser.error(str(exc))
    except AggregatorError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    for server, modules in versions.items():
        sys.stdout.write(f"{server}: {', '.join(f'{name} {n}' for name, n in sorted(modules.items()))}\n")
    return 0


def _password(user: str) -> str:
    variable = f"INSTANCE_{user.upper()}_PASSWORD"
    if not (password := os.environ.get(variable, "")):
        raise ConfigurationError("--user", f"{variable} has to hold the password of {user}")
    return password


if __name__ == "__main__":
    sys.exit(main())
