"""The strategies by their names, as `isolation` says them; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from clonedb.isolation.mode import Origin, Strategy

__all__ = ["STRATEGIES", "make_strategy"]

STRATEGIES: Mapping[str, tuple[str, str]] = MappingProxyType(
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


def make_strategy(name: str, origin: Origin) -> Strategy:
    """The strategy of a name, for one template."""
    module, kind = STRATEGIES[name]
    strategy: Strategy = getattr(importlib.import_module(f"clonedb.isolation.{module}"), kind)(origin)
    return strategy
