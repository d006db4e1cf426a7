"""A socket server of execnet's, as it runs on a host whose workers pytest-xdist is to use (`--tx socket=...`)."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["socket_server"]

SCRIPT = """
import sys
from execnet.gateway_base import get_execmodel
from execnet.script import socketserver

socketserver.execmodel = get_execmodel("thread")
sock = socketserver.bind_and_listen(sys.argv[1], socketserver.execmodel)
print("listens at", sock.getsockname()[1], flush=True)
socketserver.startserver(sock, loop=False)
"""


@contextlib.contextmanager
def socket_server(
    directory: Path,
    environment: Mapping[str, str],
    *,
    address: str = "127.0.0.1",
    prefix: Sequence[str] = (),
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its `host:port` and its process, which serves one worker in a directory of its own and ends with it."""
    directory.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", SCRIPT, f"{address}:0"],
        cwd=directory,
        env=dict(environment),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        found = re.match(r"listens at (\d+)", process.stdout.readline())
        assert found
        yield f"{address}:{found[1]}", process
    finally:
        process.kill()
        process.communicate()
