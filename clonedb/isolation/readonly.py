"""`readonly`: the worker's clone, in which the server refuses every write."""

from __future__ import annotations

from clonedb.clone import Clone
from clonedb.isolation.strategy import Reusable
from clonedb.postgres.properties import apply_settings

__all__ = ["Readonly"]


class Readonly(Reusable):
    """Every transaction begins read-only, so that a write fails with PostgreSQL's own error (SQLSTATE 25006).

    That is a setting of the database: it holds for every driver and for superusers, until somebody sets it otherwise.
    """

    def make(self) -> Clone:
        """A clone with the setting."""
        clone = super().make()
        clone.server.run(
            lambda connection: apply_settings(connection, clone.name, [[None, "default_transaction_read_only", "on"]])
        )
        return clone

    def reset(self, clone: Clone) -> bool:
        """Nothing was written."""
        del clone
        return True
