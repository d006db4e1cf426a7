"""File systems of a test's own: in memory and of a given size, or of a kind whose files can share blocks."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["disk", "sharing_blocks", "tmpfs"]


@contextlib.contextmanager
def tmpfs(size: str) -> Iterator[Path]:
    """A directory with a tmpfs of its own, which the account that a server drops to can pass; needs root."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a file system of a given size")
    with _mounted("-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs") as directory:
        yield directory


@contextlib.contextmanager
def disk(size: str) -> Iterator[Path]:
    """A directory that is full at a size and counts as one on a disk: an overlay, whose files are in a tmpfs."""
    with tmpfs(size) as memory:
        parts = {name: memory / name for name in ("lower", "upper", "work")}
        for part in parts.values():
            part.mkdir(mode=0o711)
        options = ",".join(f"{name}dir={part}" for name, part in parts.items())
        with _mounted("-t", "overlay", "-o", options, "overlay") as directory:
            yield directory


@contextlib.contextmanager
def sharing_blocks(image: Path) -> Iterator[Path]:
    """A directory with an xfs of its own in an image file; needs root and xfsprogs."""
    if os.geteuid() != 0 or not (make := shutil.which("mkfs.xfs")):
        pytest.skip(
            "needs root and mkfs.xfs (xfsprogs) for a file system whose files can share blocks"
        )
    with image.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run([make, "-q", "-m", "reflink=1", image], check=True)
    with _mounted("-o", "loop", str(image)) as directory:
        yield directory


@contextlib.contextmanager
def _mounted(*what: str) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="clonedb-mount-"))
    directory.chmod(0o711)
    try:
        command = ["mount", *what, str(directory)]
        mounted = subprocess.run(command, check=False, capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"no such file system can be mounted here: {mounted.stderr.strip()}")
        try:
            yield directory
        finally:
            _unmount(directory)
    finally:
        directory.rmdir()


def _unmount(directory: Path) -> None:
    """A server's keeper may take a moment to end after it."""
    deadline = time.monotonic() + 20
    while (
        subprocess.run(["umount", directory], check=False, capture_output=True).returncode != 0
    ):
        assert time.monotonic() < deadline, f"{directory} stays busy"
        time.sleep(0.05)
