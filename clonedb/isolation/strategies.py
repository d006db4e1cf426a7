"""The strategies by their names, as `isolation` says them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from clonedb.isolation.clones import CloneEach, CloneWorker
from clonedb.isolation.migrate import Migrate
from clonedb.isolation.readonly import Readonly
from clonedb.isolation.rewind import Rewind
from clonedb.isolation.rollback import Rollback
from clonedb.isolation.strategy import Origin, Strategy
from clonedb.isolation.truncate import Truncate

__all__ = ["STRATEGIES"]

STRATEGIES: Mapping[str, Callable[[Origin], Strategy]] = MappingProxyType(
    {
        "auto": Rewind,
        "clone": CloneEach,
        "rollback": Rollback,
        "truncate": Truncate,
        "migrate": Migrate,
        "worker": CloneWorker,
        "readonly": Readonly,
    }
)
