"""The modes by their names, as `isolation` says them; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from clonedb.isolation.mode import CloneSource, Isolation

__all__ = ["MODES", "make_isolation"]

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


def make_isolation(name: str, supply: CloneSource) -> Isolation:
    """The mode of a name, for one template."""
    module, kind = MODES[name]
    mode: Isolation = getattr(importlib.import_module(f"clonedb.isolation.{module}"), kind)(supply)
    return mode
