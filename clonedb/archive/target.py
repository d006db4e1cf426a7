"""Where an archive goes: a file, which is there in whole or not at all; a FIFO, a device, or standard output."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from clonedb.errors import BuildError

__all__ = ["target"]


@contextlib.contextmanager
def target(path: Path | None) -> Iterator[io.BufferedRandom]:
    """A new file whose contents are at `path` (None: on standard output) after the context, but after no error.

    A regular file is replaced at once, where a link leads, if that is of this account or
    root's. It has no name until then (O_TMPFILE), so that even kill -9 leaves nothing behind.
    Into a FIFO or a character device the contents are written. Raises BuildError for anything
    else, OSError when writing fails.
    """
    if path is None or _is_stream(path):
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with _standard_output() if path is None else _stream(path) as stream:
                shutil.copyfileobj(file, stream)
                stream.flush()

        return

    path = path.resolve()
    with _nameless(path.parent) as file:
        yield file
        file.flush()
        # contents before name: after a power failure the name must not lead to an empty file
        os.fsync(file.fileno())
        _name(file, path)


def _is_stream(path: Path) -> bool:
    """Whether a path leads to something that is written into; raises BuildError for what takes no archive."""
    with contextlib.suppress(FileNotFoundError):
        link = path.lstat()
        # as a link that another account made could lead to any file of this one's
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
            raise BuildError(
                f"{str(path)!r} cannot be written: it is a link that uid {link.st_uid} made"
            )

        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return True
        if not stat.S_ISREG(mode):
            raise BuildError(
                f"{str(path)!r} cannot be written: it is no file, FIFO or character device"
            )

    return False


def _stream(path: Path) -> IO[bytes]:
    try:  # opening a FIFO without a reader would wait for one
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_fifo():
            raise BuildError(
                f"{str(path)!r} cannot be written: nobody reads from that FIFO; begin that first"
            ) from None
        raise error from None
    # only opening was not to wait; writing may
    os.set_blocking(descriptor, True)
    return open(descriptor, "wb")  # noqa: PTH123  # Path.open() takes no descriptor


@contextlib.contextmanager
def _standard_output() -> Iterator[IO[bytes]]:
    if sys.stdout.isatty():
        raise BuildError(
            "standard output is a terminal, which is no place for an archive; lead it to a file or a pipe"
        )
    yield sys.stdout.buffer


def _nameless(directory: Path) -> io.BufferedRandom:
    """A file that may get its name later; where the file system has no such files, one that loses it at once."""
    try:
        # tempfile opens with O_EXCL, after which a file can never get a name
        return os.fdopen(os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600), "w+b")
    except OSError:
        return tempfile.TemporaryFile(dir=directory)


def _name(file: io.BufferedRandom, path: Path) -> None:
    """Give a nameless file its name, in place of what had it."""
    # link(2) replaces nothing, rename(2) does
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            # with a directory given Python calls linkat(2), which follows the link that /proc
            # has
            os.link(f"/proc/self/fd/{file.fileno()}", beside.name, dst_dir_fd=directory)
        except (
            OSError
        ):  # a file system without O_TMPFILE, where the file has lost its name for good
            with open(
                beside, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)
            ) as copy:
                file.seek(0)
                shutil.copyfileobj(file, copy)
                copy.flush()
                os.fsync(copy.fileno())

        beside.replace(path)
        # the name is in the directory
        os.fsync(directory)
    finally:
        os.close(directory)
        beside.unlink(missing_ok=True)
