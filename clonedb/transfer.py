"""Templates that travel: copied from another of several servers, which is quicker than building them again."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from clonedb.clones.clone import create
from clonedb.errors import CloneDBError
from clonedb.postgres.servers import open_server
from clonedb.templates.catalog import find
from clonedb.templates.crash_losses import what_is_lost

if TYPE_CHECKING:
    from clonedb.postgres.server import Server
    from clonedb.progress import Progress
    from clonedb.settings.config import Config
    from clonedb.templates.locks import BuildLease
    from clonedb.templates.metadata import TemplateRecord

__all__ = ["Transfer"]


class Transfer:
    """Copies a template to a server from the first of `others` that has it, `extensions` being those of the project."""

    def __init__(
        self,
        others: Sequence[Config],
        extensions: Collection[str],
        run: str,
        progress: Progress,
    ) -> None:
        self._others = others
        self._extensions = extensions
        self._run = run
        self._progress = progress

    def copy(
        self, target: Server, config: Config, name: str, lease: BuildLease
    ) -> TemplateRecord | None:
        """The template of a name, copied while its `lease` on the target is held.

        None where no other server has it, or what it takes is missing or fails: then it is to
        be built. A template of another version of PostgreSQL has another name.
        """
        import psycopg

        for other in self._others:
            if not _may_have(other, target):
                continue
            try:
                with contextlib.closing(open_server(other, self._extensions)) as source:
                    found = self._from(source, target, config, name, lease)
            except (CloneDBError, psycopg.Error, OSError) as error:
                reason = " ".join(str(error).split())
                self._progress.say(f"template {name!r} cannot be copied: {reason}")
            else:
                if found is not None:
                    return found
        return None

    def _from(
        self, source: Server, target: Server, config: Config, name: str, lease: BuildLease
    ) -> TemplateRecord | None:
        from clonedb.archive.dump import read_template
        from clonedb.archive.restore import Restore

        found = find(source, name)
        if found is None or what_is_lost(source, found) or not source.use(name):
            return None
        self._progress.say(f"copying template {name!r} from {source.about} to {target.about}")
        with tempfile.TemporaryFile() as contents:
            with create(source, found) as clone:
                header = read_template(source, found, clone.name, contents)
            origin = f"template {name!r} of {source.about}"
            restoring = Restore(target, config, header, contents, name, origin, lease)
            return replace(restoring.carry_out(self._run), copied=True)


def _may_have(other: Config, target: Server) -> bool:
    """Whether it is worth opening another server: an embedded one that is not up is not started for this."""
    if target.binaries is None:
        return True
    from clonedb.embedded.places import ServerDirectory

    return ServerDirectory.of(other, target.binaries).running() is not None
