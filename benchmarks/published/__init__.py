"""Alembic histories that others wrote and published: what they are, and environments to run them in."""

from __future__ import annotations

from benchmarks.published.environments import (
    Environment,
    InstallationError,
    NotInstalledError,
    install,
)
from benchmarks.published.histories import HISTORIES, History

__all__ = [
    "HISTORIES",
    "Environment",
    "History",
    "InstallationError",
    "NotInstalledError",
    "install",
]
