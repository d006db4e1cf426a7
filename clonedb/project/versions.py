"""The versions of installed distributions, without importlib.metadata, which costs 15 ms to import."""

from __future__ import annotations

import os
import sys

__all__ = ["minor_version", "version"]


def minor_version(name: str) -> str:
    """Major and minor version of an installed distribution."""
    return ".".join(version(name).split(".")[:2])


def version(name: str) -> str:
    """The version of an installed distribution, read from the name of its *.dist-info directory."""
    begin, end = f"{name}-", ".dist-info"
    for directory in sys.path:
        # listing one directory costs more than looking for the package in each
        if not os.path.isdir(os.path.join(directory, name)):  # noqa: PTH112, PTH118 - a Path costs more than the call
            continue
        entries = map(str.lower, os.listdir(directory or "."))  # noqa: PTH208 - so it does here
        found = [entry for entry in entries if entry.startswith(begin) and entry.endswith(end)]
        # `alembic-1.17.2.dist-info`, but not `alembic-utils-0.8.dist-info`
        versions = sorted(
            entry[len(begin) : -len(end)] for entry in found if entry.count("-") == 2
        )
        if versions:
            return versions[-1]

    from importlib import metadata

    return metadata.version(name)
