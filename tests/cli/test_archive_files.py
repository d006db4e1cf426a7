"""An archive as a file: what it is written to, whose it must be, and what is refused of what is in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import re
import shlex
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.projects import CLONEDB, Project, databases

_numbers = itertools.count()


@pytest.fixture
def prefix(shared_prefix: str) -> str:
    """A prefix of the test's own: each begins without a template."""
    return f"{shared_prefix}_f{next(_numbers)}"


def _changed(
    data: bytes, change: Callable[[dict[str, object]], None] | None, head: bytes = b""
) -> bytes:
    """An archive with another header."""
    written = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=written, mode="w:gz") as new,
    ):
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            body = content.read()
            if member.name == "clonedb.json":
                header = json.loads(body)
                if change:
                    change(header)
                body = head or json.dumps(header).encode()
            member.size = len(body)
            new.addfile(member, io.BytesIO(body))
    return written.getvalue()


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "damaged, or no archive"),
    "text": (lambda data: b"hello\n" * 100, "damaged, or no archive"),
    "half": (lambda data: data[: len(data) // 2], "damaged, or no archive"),
    "a bit": (
        lambda data: data[:300] + bytes([data[300] ^ 64]) + data[301:],
        "damaged, or no archive",
    ),
    "another tar": (lambda data: _tar("x"), "is no archive of clonedb's"),
    "compressed text": (lambda data: gzip.compress(b"hello" * 500), "damaged, or no archive"),
    "newer": (
        lambda data: _changed(data, lambda header: header.update({"clonedb archive": 99})),
        r"an archive of a newer clonedb \(format 99, this one reads 3\); upgrade",
    ),
    "older": (
        lambda data: _changed(data, lambda header: header.update({"clonedb archive": 2})),
        "exported by an older clonedb; export it anew",
    ),
    "no parts": (
        lambda data: _changed(data, lambda header: header.update(parts=[[1]])),
        "damaged, or no archive",
    ),
    **{
        f"parts {text}": (
            lambda data, text=text: _changed(
                data, lambda header: header.update(parts=json.loads(text))
            ),  # type: ignore[misc]
            "damaged, or no archive",
        )
        for text in (
            *(
                "[[[0, 999999999], null]]",
                "[[[-1, 1], null]]",
                "[[[0, -1], null]]",
                "[[[0, 1.5], null]]",
            ),
            *(
                '[[["0", 1], null]]',
                "[[[0, 1, 2], null]]",
                "[[[0, 1], [5, 999999999]]]",
                "7",
                "{}",
            ),
            *('[[[0, 1], ["x"]]]', "[[[0, 1]]]", "[[[0, 1], 0]]", "[" * 500 + "]" * 500),
        )
    },
    "nested": (lambda data: _changed(data, None, b"[" * 100000), "damaged, or no archive"),
    "a size": (
        lambda data: _changed(
            data,
            lambda header: header.update(
                metadata=str(header["metadata"]).replace('"size":', '"size":"x","x":')
            ),
        ),
        "exported by another version of clonedb",
    ),
    "a version": (
        lambda data: _changed(data, lambda header: header.update(postgresql="18")),
        "damaged, or no archive",
    ),
    "other rows": (
        lambda data: _changed(data, lambda header: header.update(contents="0" * 64)),
        "'contents.sql' in it is not what was written",
    ),
    "another clonedb's": (
        lambda data: _changed(
            data, lambda header: header.update(metadata='{"clonedb": {"new": 1}}')
        ),
        "exported by another version of clonedb",
    ),
}


def _tar(name: str) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return written.getvalue()


@pytest.mark.campaign("long")
def test_files_that_are_not_what_they_should_be(
    items: Project, cli: Command, admin_dsn: str, prefix: str
) -> None:
    """Each is refused in one message, before anything is made on the server."""
    cli("export", "template.clonedb")
    cli("drop", "--all")
    data = (items.directory / "template.clonedb").read_bytes()
    for name, (damage, message) in DAMAGES.items():
        (items.directory / "bad.clonedb").write_bytes(damage(data))
        refused = cli("import", "--trust", "bad.clonedb", code=1)
        assert re.search(message, refused.err), (name, refused.err)
    assert (
        "cannot be read: No such file or directory"
        in cli("import", "missing.clonedb", code=1).err
    )
    assert databases(admin_dsn, prefix) == []


@pytest.mark.campaign("long")
def test_archives_are_code(items: Project, cli: Command, admin_dsn: str, prefix: str) -> None:
    """One that this user did not export here is run only when the user says so, or knows its digest."""
    exported = cli("export", "template.clonedb").out
    file = items.directory / "template.clonedb"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert exported.endswith(f", sha256:{digest}\n")
    cli("drop", "--all")
    other = items.directory / "other.clonedb"
    other.write_bytes(_changed(file.read_bytes(), lambda header: None))
    refused = cli("import", "other.clonedb", code=1).err
    assert (
        "'other.clonedb' was not exported by this user on this machine, and an archive is code"
        in refused
    )
    assert f"it is sha256:{hashlib.sha256(other.read_bytes()).hexdigest()}; fetch it again" in (
        cli("import", "--digest", digest, "other.clonedb", code=1).err
    )
    assert databases(admin_dsn, prefix) == []
    for arguments in (
        ("--trust", "other.clonedb"),
        ("--digest", f"sha256:{digest}", "template.clonedb"),
    ):
        assert "restored in" in cli("import", *arguments).out
        cli("drop", "--all")
    (items.directory / "fifo").symlink_to("pipe")
    os.mkfifo(items.directory / "pipe")
    for place in ("fifo", "/dev/null"):
        refused = cli("import", "--trust", place, code=1).err
        assert "will not open" in refused
        assert "; name the file that was exported" in refused


@pytest.mark.campaign("long")
def test_what_an_archive_is_written_to(items: Project, cli: Command, tmp_path: Path) -> None:
    """A link keeps leading where it led, a FIFO and a device are written into, `-` is standard output; else it is refused."""
    (tmp_path / "there").write_text("before")
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to(tmp_path / "there")
    os.mkfifo(fifo)
    cli("export", str(link))
    assert link.is_symlink()
    assert tarfile.is_tarfile(tmp_path / "there")
    assert "nobody reads from that FIFO" in cli("export", str(fifo), code=1).err
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE) as reader:
        deadline = time.monotonic() + 20
        while items.clonedb("export", str(fifo)).code != 0:  # until the reader has opened it
            assert time.monotonic() < deadline
        assert reader.stdout is not None
        assert tarfile.is_tarfile(io.BytesIO(reader.stdout.read()))
    assert fifo.is_fifo()
    cli("export", "/dev/null")
    assert Path("/dev/null").is_char_device()
    outcome = items.run("sh", "-c", f"{shlex.join(CLONEDB)} export - > piped.clonedb").demand()
    assert tarfile.is_tarfile(items.directory / "piped.clonedb")
    assert "-: template " in outcome.err
    if os.geteuid() == 0:
        os.chown(link, 65534, 65534, follow_symlinks=False)
        assert "it is a link that uid 65534 made" in cli("export", str(link), code=1).err
