"""Several hosts on one machine: network namespaces on a bridge, whose cables can be pulled, and a server among them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.rewind.ordinary import restartable_server

__all__ = ["Host", "Network", "network", "why_not"]


@cache
def why_not() -> str | None:
    """Why network namespaces cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need `ip` (Debian: apt-get install iproute2)"
    name = f"cdb{secrets.token_hex(3)}"
    tried = subprocess.run(
        ["ip", "link", "add", name, "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode == 0:
        tried = subprocess.run(
            ["ip", "netns", "add", name], capture_output=True, text=True, check=False
        )
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
    return tried.stderr.strip() if tried.returncode else None


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace; `prefix` is what a command begins with that is to run there."""

    name: str
    bridge: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Pull the cable: no packet comes through, and nobody is told."""
        _ip("link", "set", f"{self.name}b", "nomaster")

    def heal(self) -> None:
        """Plug it in again."""
        _ip("link", "set", f"{self.name}b", "master", self.bridge)


@dataclass(frozen=True, slots=True)
class Network:
    """A server that every host reaches at `url`, and this process, too.

    `host()` makes one more host, `restart()` stops the server and starts it again.
    """

    url: str
    host: Callable[[], Host]
    restart: Callable[[], None]


@contextlib.contextmanager
def network(postgres_bin: str | None, *options: str) -> Iterator[Network]:
    """A bridge, and a server on it; `options` are the server's."""
    mark = secrets.token_hex(3)
    subnet = f"10.{213 + secrets.randbelow(30)}.{secrets.randbelow(255)}"
    bridge = f"cdb{mark}"
    with contextlib.ExitStack() as stack:
        # without an address of its own, a bridge takes the lowest of its cables: each new host could change it, and
        # the others sent to the old one until their ARP entries ran out
        _ip("link", "add", bridge, "address", f"02:{_hexes(mark)}:00:01", "type", "bridge")
        stack.callback(_ip, "link", "delete", bridge)
        _ip("address", "add", f"{subnet}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="clonedb-hba-"))
        )
        directory.chmod(0o755)
        rules = directory / "hba"
        rules.write_text("local all all trust\nhost all all all trust\n")
        rules.chmod(0o644)
        _, restart = stack.enter_context(
            restartable_server(
                postgres_bin,
                f"listen_addresses={subnet}.1",
                f"hba_file={rules}",
                "fsync=off",
                *options,
            )
        )
        numbers = iter(range(2, 250))

        def host() -> Host:
            number = next(numbers)
            made = Host(f"c{mark}{number}", bridge, f"{subnet}.{number}")
            _ip("netns", "add", made.name)
            stack.callback(_ip, "netns", "delete", made.name)
            inner, outer = f"{made.name}a", f"{made.name}b"
            _ip("link", "add", inner, "type", "veth", "peer", "name", outer)
            _ip("link", "set", inner, "netns", made.name)
            _ip("link", "set", outer, "master", bridge, "up")
            inside = ("-n", made.name)
            _ip(*inside, "address", "add", f"{made.address}/24", "dev", inner)
            _ip(*inside, "link", "set", inner, "up")
            _ip(*inside, "link", "set", "lo", "up")
            return made

        yield Network(f"postgresql://postgres@{subnet}.1", host, restart)


def _hexes(mark: str) -> str:
    """`a1b2c3` as the middle of a hardware address, `a1:b2:c3`."""
    return ":".join(mark[at : at + 2] for at in range(0, 6, 2))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
