"""What a build says of a project: files that are not watched, and extensions that lack."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from clonedb.postgres.server import Server
from clonedb.project.detect import FOUND
from clonedb.project.fingerprint import Fingerprint
from clonedb.project.survey import holds_url
from clonedb.settings.config import Config
from clonedb.settings.key import shown
from clonedb.settings.keys import KEYS

__all__ = ["found_settings", "remedy", "unseen_files", "unseen_variables"]

_MOST = 5  # files or variables that one line lists

_NO_INPUTS = ("PG", "CLONEDB_", "PYTEST_")  # how variables begin that are no inputs
_TOOLS = (
    "pyproject.toml",
    "setup.cfg",
    "tox.ini",
)  # libraries look there for settings of their own


def found_settings(config: Config) -> list[str]:
    """What to say when nothing but the project's files says what makes the schema."""
    found = {name: getattr(config, name) for name in KEYS if config.source(name) == FOUND}
    if not found:
        return []
    lines = ", ".join(f"{name} = {shown(value)}" for name, value in found.items())
    return [
        f"{lines} is what was found in the project; `clonedb init` writes it into pyproject.toml"
    ]


def unseen_files(rootdir: Path, wanted: Fingerprint, read: Iterable[Path]) -> list[str]:
    """What to say of files that a build read and the fingerprint does not have."""
    known = {name for _, name, _ in wanted.abbreviated()}
    unseen = []
    for path in read:
        name = path.relative_to(rootdir).as_posix()
        # such as .env, or a package in a virtual environment below the project
        hidden = any(
            part.startswith(".") or part == "site-packages"
            for part in path.relative_to(rootdir).parts
        )
        if name not in known and not hidden and name not in _TOOLS:
            unseen.append(name)

    if not unseen:
        return []
    listed = _listed(unseen[:_MOST])
    told = f"files that are not in the fingerprint: {listed}"
    if len(unseen) > _MOST:
        told = f"{len(unseen)} {told}, ..."
    watch = _listed(_globs(unseen))
    return [
        f"the build read {told}; a change in them would go unseen: add watch = [{watch}] to [tool.clonedb]"
    ]


def unseen_variables(config: Config, read: Iterable[str]) -> list[str]:
    """What to say of environment variables that the project's code asked for in a build.

    Those that lead to a database are none: the interpreter that builds has its own of them.
    """
    unseen = [
        name
        for name in read
        # what is watched, what leads to a database, and what clonedb or pytest set themselves
        if name not in {*config.watch_env, *config.route}
        and not name.startswith(_NO_INPUTS)
        and not holds_url(name)
        and not os.environ.get(name, "").startswith("postgres")
    ]
    if not unseen:
        return []
    listed = ", ".join(json.dumps(name) for name in unseen[:_MOST])
    more = f" and {len(unseen) - _MOST} more" if len(unseen) > _MOST else ""
    told = (
        f"the build read environment variables that are not in the fingerprint: {listed}{more}; if tables or rows"
        f" depend on them, another value would go unseen: add watch_env = [{listed}] to [tool.clonedb]"
    )
    return [told]


def _globs(names: Iterable[str]) -> list[str]:
    """The files; a glob where several of a kind are beside each other, as a new one there will be read, too."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        glob = str(path.with_name(f"*{path.suffix}")) if path.suffix else name
        kinds.setdefault(glob, []).append(name)
    return [glob if len(alike) > 1 else alike[0] for glob, alike in kinds.items()]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(json.dumps(name) for name in names)


def remedy(server: Server) -> str:
    """What to do when a build wants an extension that the server lacks."""
    from clonedb.embedded import binaries

    if not server.embedded:
        return f"{server.about} does not have it; install it there, or use another url"
    found, _ = binaries.find(server.config)
    listed = "; ".join(f"{b.source} {b.version} in {b.directory}" for b in found)
    return (
        f"the {server.about} does not have it; name it in [tool.clonedb] extensions so that a PostgreSQL that"
        f" has it is chosen (found: {listed}), install it, or set url to a server that has it"
    )
