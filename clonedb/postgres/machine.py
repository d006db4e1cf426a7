"""Which machine this is: the boot it runs since, and the namespaces that make a container of it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["boot_id", "host"]


def boot_id() -> str:
    """A name for the time since the machine was started; empty where the system has none (only Linux has)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def host() -> str:
    """A name for where a pid and a loopback address mean the same: this boot, pid and network namespace.

    A state directory may be shared by two containers or over the network; locks then reach further than sockets do.
    """
    namespaces = []
    for name in ("pid", "net"):
        try:
            namespaces.append(os.readlink(f"/proc/self/ns/{name}"))  # noqa: PTH115  # the target is a name, no path
        except OSError:
            namespaces.append(name)
    return " ".join([boot_id() or os.uname().nodename, *namespaces])
