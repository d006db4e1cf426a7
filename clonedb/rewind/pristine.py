"""What one template is, for a process that rewinds its clones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping

from clonedb.clones.clone import Clone, create
from clonedb.originals import getpid
from clonedb.postgres.server import Server
from clonedb.rewind.facts import Facts, RefusedError, Table, read_facts
from clonedb.rewind.large_objects import Objects
from clonedb.rewind.own_session import open_session
from clonedb.rewind.prediction import Habits
from clonedb.rewind.reference import Reference
from clonedb.rewind.witness import Witness
from clonedb.templates.ensure import TemplateRecord

__all__ = ["Pristine"]


class Pristine:
    """What one template holds, read once and shared by all its clones, and the session that reads the WAL for them.

    The catalogs' facts are read in the first clone that is watched (the template lets no
    session in): clones have the template's relfilenodes. May be used by several threads.
    """

    def __init__(
        self,
        server: Server,
        template: TemplateRecord,
        make: Callable[[], Clone | None] | None = None,
    ) -> None:
        """`make` makes the clone that rows are read from, when there is room."""
        self.server = server
        self.template = template
        self._make = make or (lambda: create(server, template))
        self._lock = threading.RLock()
        self._pid = getpid()
        self._facts: Facts | None = None
        self._oid = self._template_oid()
        self._witness: Witness | None = None
        self._reference: Reference | None = None
        self.habits: Habits = Habits()

    def facts(self, database: str) -> Facts:
        """The template's relations; read in `database`, a fresh clone, if they are not known yet."""
        with self._lock:
            if self._facts is None:
                with open_session(self.server, database) as connection:
                    self._facts = read_facts(connection)
                # the reference's clone is made later, when another template may have this one's
                # name
                self._reference = Reference(
                    self.server, self._make, lambda: self.require_same(self._template_oid())
                )
            return self._facts

    def require_same(self, oid: int) -> None:
        """Raises RefusedError when the template has another oid by now: one of the same name was built anew."""
        if oid != self._oid:
            raise RefusedError("the template was built anew")

    def _template_oid(self) -> int:
        rows = self.server.rows(
            "select oid::bigint from pg_database where datname = %s", [self.template.name]
        )
        return int(rows[0][0]) if rows else 0

    def witness(self) -> Witness:
        """The session that reads the WAL; another one when the server ended the last, or a parent process has it."""
        with self._lock:
            # one socket cannot serve two processes; the parent's is not closed either, as that
            # would send a Terminate to the server
            if self._pid != getpid():
                self._pid, self._witness = getpid(), None
            if self._witness is None or self._witness.broken:
                self._witness = Witness(self.server)
            return self._witness

    def names(self, table: Table, blocks: Iterable[int]) -> list[str]:
        """The places in the template of its rows in some blocks of a table."""
        with self._lock:
            return self._known().names(table, blocks)

    def rows(self, table: Table, names: Collection[str]) -> list[str]:
        """The texts of some of the template's rows. Raises RefusedError for those that cannot be put back as text."""
        with self._lock:
            return self._known().rows(table, names)

    def catalogs(
        self, names: Collection[str], oids: Collection[int]
    ) -> tuple[Mapping[str, int], Mapping[int, str], str]:
        """The template's catalogs, as `Reference.catalogs`."""
        with self._lock:
            return self._known().catalogs(names, oids)

    def catalog_contents(self, name: str) -> str:
        """The digest of one of them."""
        with self._lock:
            return self._known().catalog_contents(name)

    def large_objects(self) -> Objects:
        """The template's large objects, as `Reference.large_objects`."""
        with self._lock:
            return self._known().large_objects()

    def large_object(self, oid: int) -> str:
        """What is in one of them, in hexadecimal digits."""
        with self._lock:
            return self._known().large_object(oid)

    def release_spares(self) -> None:
        """Drop the clone that rows were read from, if there is one; it is made again on need."""
        with self._lock:
            if self._reference is not None:
                self._reference.close()

    def _known(self) -> Reference:
        if self._reference is None:
            raise RefusedError("the template was not read")
        return self._reference

    def close(self) -> None:
        """End its sessions, and drop the clone that rows were read from if there is one."""
        with self._lock:
            if self._witness is not None and self._pid == getpid():
                self._witness.close()
            if self._reference is not None:
                self._reference.close()
            self._witness = self._reference = self._facts = None
