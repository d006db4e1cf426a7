"""How CREATE DATABASE copies: what is chosen, and what is left alone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonedb.clones.copy_strategy import choose
from clonedb.embedded import leases
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from clonedb.templates.metadata import Metadata, TemplateRecord
from tests.mounts import sharing_blocks
from tests.projects import Project, one
from tests.rewind.ordinary import ordinary_server

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def url(postgres_bin: str | None) -> Iterator[str]:
    """A server with fsync on, which clonedb knows nothing of."""
    with ordinary_server(postgres_bin) as url:
        yield url


@pytest.fixture
def unknown(config: Config, url: str, tmp_path: Path) -> Iterator[Server]:
    """That server, with a state directory of the test's own."""
    server = open_server(
        config.replace("the test", url=url, state_dir=str(tmp_path), isolation="clone")
    )
    yield server
    server.close()


def template(size: int) -> TemplateRecord:
    """A template of so many bytes, as far as its comment says."""
    values = {field.name: () for field in dataclasses.fields(Metadata)}
    return TemplateRecord("of_the_test", Metadata(**{**values, "size": size}), built=False)  # type: ignore[arg-type]


def test_nothing_is_flushed(server: Server) -> None:
    """On the embedded server every template is copied by file."""
    assert {choose(server, template(size * MEGABYTE)) for size in (8, 80, 800)} == {"file_copy"}


def test_what_is_flushed(unknown: Server) -> None:
    """With fsync on small templates go through the WAL, because copying by file costs two checkpoints; large do not."""
    assert {choose(unknown, template(size * MEGABYTE)) for size in (8, 80)} == {"wal_log"}
    assert {choose(unknown, template(size * MEGABYTE)) for size in (120, 5000)} == {"file_copy"}


def test_where_clones_are_rewound(config: Config, url: str, tmp_path: Path) -> None:
    """None goes through the WAL, which the other workers have to read."""
    with contextlib.closing(
        open_server(config.replace("the test", url=url, state_dir=str(tmp_path)))
    ) as server:
        assert server.config.isolation == "auto"
        assert {choose(server, template(size * MEGABYTE)) for size in (8, 80, 5000)} == {
            "file_copy"
        }


def test_what_is_said_counts(config: Config, url: str, tmp_path: Path) -> None:
    """The rule does not apply where `strategy` is set."""
    said = config.replace(
        "the test", url=url, state_dir=str(tmp_path), isolation="clone", strategy="file_copy"
    )
    with contextlib.closing(open_server(said)) as server:
        assert choose(server, template(8 * MEGABYTE)) == "file_copy"


def test_a_clone_on_any_file_system(items: Project, server: Server, variables: None) -> None:
    """Whether files can share blocks is tried out in the data directory, and nothing of that stays there."""
    import clonedb

    with clonedb.template(items.directory) as opened, opened.clone() as clone:
        assert one(clone, "select count(*) from item") == (1,)
    assert server.lease is not None
    assert [path.name for path in server.lease.data_dir.glob("clonedb-*")] == []


@pytest.fixture
def reflinks(tmp_path: Path) -> Iterator[Path]:
    """A file system whose files can share blocks, mounted for the test where that is possible."""
    with sharing_blocks(tmp_path / "image") as mount:
        yield mount


def _used(mount: Path) -> int:
    """The bytes that are taken on a file system, after everything was written."""
    subprocess.run(["sync", "--file-system", mount], check=True)
    found = os.statvfs(mount)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_a_clone_that_shares_the_template_s_blocks(
    items: Project, config: Config, reflinks: Path
) -> None:
    """PostgreSQL 18 on xfs: a clone has the template's rows, takes no space, and is nobody else's when written to."""
    import clonedb

    items.revision(
        "three",
        'op.execute("create table big as select repeat(n::text, 99) t from generate_series(1, 60000) n")',
    )
    state = reflinks / "state"
    settings: clonedb.Settings = {
        "state_dir": str(state),
        "data": "disk",
        "salt": config.salt,
        "postgres_bin": config.postgres_bin,
    }
    try:
        with clonedb.template(items.directory, **settings) as opened:
            if opened.server.info.major < 18:
                pytest.skip("file_copy_method came with PostgreSQL 18")
            before = _used(reflinks)
            with opened.clone() as clone, opened.clone() as other:
                assert _used(reflinks) - before < opened.record.metadata.size / 4
                assert opened.server.run(
                    lambda c: c.execute("show file_copy_method").fetchone()
                ) == ("clone",)
                digest = "select count(*), sum(hashtext(t)) from big"
                pristine = one(other, digest)
                assert pristine[0] == 60000
                assert one(clone, digest) == pristine
                with clone.connect(autocommit=True) as connection:
                    connection.execute("update big set t = 'changed'; checkpoint")
                assert one(other, digest) == pristine
            with opened.clone() as clone:
                assert one(clone, digest) == pristine
    finally:
        leases.stop(config.replace("the test", state_dir=str(state)))
