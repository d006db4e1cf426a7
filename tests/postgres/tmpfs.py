"""A file system in memory of a given size, mounted for a test."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["tmpfs"]


@contextlib.contextmanager
def tmpfs(size: str) -> Iterator[Path]:
    """A directory with a tmpfs of its own, which the account that a server drops to can pass; needs root."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a file system of a given size")
    directory = Path(tempfile.mkdtemp(prefix="clonedb-tmpfs-"))
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", str(directory)]
        mounted = subprocess.run(command, check=False, capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
        try:
            yield directory
        finally:
            _unmount(directory)
    finally:
        directory.rmdir()


def _unmount(directory: Path) -> None:
    """A server's keeper may take a moment to end after it."""
    deadline = time.monotonic() + 20
    while subprocess.run(["umount", directory], check=False, capture_output=True).returncode != 0:
        assert time.monotonic() < deadline, f"{directory} stays busy"
        time.sleep(0.05)
