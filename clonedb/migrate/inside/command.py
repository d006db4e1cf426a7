"""The program that runs one of Alembic's own commands on a database, in an interpreter of its own.

It finds its setup in an environment variable; its arguments are those of `alembic`.
"""

from __future__ import annotations

import json
import os
import sys

VARIABLE = "_CLONEDB_ALEMBIC"  # not the command line, where everybody reads the password


def main() -> None:
    """Run the command; exits as `alembic` does."""
    setup = json.loads(os.environ.pop(VARIABLE))
    sys.path[:] = setup["sys_path"]
    from clonedb.migrate.inside.environment import AlembicEnvironment
    from clonedb.migrate.inside.routing import route_everything
    from clonedb.migrate.inside.server_objects import share_server
    from clonedb.url import DatabaseURL

    share_server(set())
    route_everything(DatabaseURL.parse(setup["url"]))
    AlembicEnvironment(setup).command(sys.argv[1:])


if __name__ == "__main__":
    main()
