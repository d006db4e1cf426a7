"""The modes by their names, as `isolation` says them; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from clonedb.isolation.mode import CloneSource, Isolation

__all__ = ["MODES", "make_isolation", "mode_class"]

MODES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "auto": ("rewind", "Rewind"),
        "clone": ("clones", "CloneEach"),
        "rollback": ("rollback", "Rollback"),
        "truncate": ("truncate", "Truncate"),
        "migrate": ("migrate", "Migrate"),
        "worker": ("clones", "CloneWorker"),
        "readonly": ("readonly", "Readonly"),
    }
)


def mode_class(name: str) -> type[Isolation]:
    """The class of the mode of a name."""
    module, kind = MODES[name]
    found: type[Isolation] = getattr(
        importlib.import_module(f"clonedb.isolation.{module}"), kind
    )
    return found


def make_isolation(name: str, supply: CloneSource) -> Isolation:
    """The mode of a name, for one template."""
    make: Callable[[CloneSource], Isolation] = mode_class(name)
    return make(supply)
