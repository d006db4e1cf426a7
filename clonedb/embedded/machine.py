"""Which machine this is: the boot it runs since, and the namespaces that make a container of it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

__all__ = ["boot_id", "clients_of", "host", "is_stopped", "is_stopped_server"]


def boot_id() -> str:
    """A name for the time since the machine was started; empty where the system has none (only Linux has)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def host() -> str:
    """A name for where a pid and a loopback address mean the same: this boot, pid and network namespace.

    A state directory may be shared by two containers or over the network; locks then reach
    further than sockets do.
    """
    namespaces = []
    for name in ("pid", "net"):
        try:
            namespaces.append(os.readlink(f"/proc/self/ns/{name}"))  # noqa: PTH115  # the target is a name, no path
        except OSError:
            namespaces.append(name)
    return " ".join([boot_id() or os.uname().nodename, *namespaces])


def clients_of(port: int) -> str:
    """How many connections to a port of this machine each account has, as text; empty where the kernel does not say.

    `uid 65534 900, uid 1000 3`: the most first.
    """
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return ""
    # local address, remote address, state (01 is connected), ..., uid: in the line of the
    # client's end
    fields = (line.split() for line in lines)
    uids = Counter(
        each[7] for each in fields if each[3] == "01" and each[2].endswith(f":{port:04X}")
    )
    return ", ".join(f"uid {uid} {count}" for uid, count in uids.most_common())


def is_stopped_server(pid: int) -> bool:
    """Whether a process is PostgreSQL's and stopped, by a signal or a debugger; False for one of another machine."""
    name, stopped = _name_and_stop(pid)
    return name == "postgres" and stopped


def is_stopped(pid: int) -> bool:
    """Whether a process of this machine is stopped: by Ctrl-Z, a signal or a debugger."""
    return _name_and_stop(pid)[1]


def _name_and_stop(pid: int) -> tuple[str, bool]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", False
    # a name may have spaces and parentheses
    name, _, fields = text.partition("(")[2].rpartition(")")
    return name, fields.split()[0] in ("T", "t")
