"""How CREATE DATABASE copies: what is chosen, what is measured, and what is left alone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonedb.clones.copy_strategy import choose, note
from clonedb.embedded import leases
from clonedb.postgres.server import Server, open_server
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
    server = open_server(config.replace("the test", url=url, state_dir=str(tmp_path), isolation="clone"))
    yield server
    server.close()


def template(size: int) -> TemplateRecord:
    """A template of so many bytes, as far as its comment says."""
    values = {field.name: () for field in dataclasses.fields(Metadata)}
    return TemplateRecord("of_the_test", Metadata(**{**values, "size": size}), built=False)  # type: ignore[arg-type]


def test_nothing_is_flushed(server: Server, tmp_path: Path) -> None:
    """On the embedded server every template is copied by file, and nothing is measured."""
    for size in (8, 80, 800):
        note(server, template(size * MEGABYTE), "file_copy", 1.0)
        assert choose(server, template(size * MEGABYTE)) == "file_copy"
    assert not (Path(server.config.state_dir or "") / "copying.json").exists()


def test_what_the_rule_decides(unknown: Server, tmp_path: Path) -> None:
    """With fsync on small templates go through the WAL, because copying by file costs two checkpoints; large do not."""
    for size, strategy in ((8, "wal_log"), (5000, "file_copy")):
        assert choose(unknown, template(size * MEGABYTE)) == strategy
        note(unknown, template(size * MEGABYTE), strategy, 1.0)
        assert choose(unknown, template(size * MEGABYTE)) == strategy
    assert not (tmp_path / "copying.json").exists()


@pytest.mark.parametrize(("by_wal", "by_file", "quicker"), [(0.2, 0.3, "wal_log"), (0.3, 0.2, "file_copy")])
def test_what_is_measured(unknown: Server, by_wal: float, by_file: float, quicker: str) -> None:
    """In between each of the first two clones takes another strategy, and the quicker one is remembered."""
    middling = template(60 * MEGABYTE)
    for strategy, seconds in (("wal_log", by_wal), ("file_copy", by_file)):
        assert choose(unknown, middling) == strategy
        note(unknown, middling, strategy, seconds)
    assert choose(unknown, middling) == quicker
    note(unknown, middling, quicker, 9.0)  # the first measurement counts
    assert choose(unknown, template(50 * MEGABYTE)) == quicker
    assert choose(unknown, template(300 * MEGABYTE)) == "file_copy"  # another size, which nobody measured yet


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "\xff"])
def test_what_cannot_be_read_is_measured_again(unknown: Server, tmp_path: Path, text: str) -> None:
    """A damaged file costs two measurements."""
    (tmp_path / "copying.json").write_text(text, encoding="latin-1")
    middling = template(60 * MEGABYTE)
    assert choose(unknown, middling) == "wal_log"
    note(unknown, middling, "wal_log", 0.1)
    assert choose(unknown, middling) == "file_copy"


def test_where_clones_are_rewound(config: Config, url: str, tmp_path: Path) -> None:
    """None goes through the WAL, which the other workers have to read."""
    with contextlib.closing(open_server(config.replace("the test", url=url, state_dir=str(tmp_path)))) as server:
        assert server.config.isolation == "auto"
        assert {choose(server, template(size * MEGABYTE)) for size in (8, 80, 5000)} == {"file_copy"}


def test_what_is_said_counts(config: Config, url: str, tmp_path: Path) -> None:
    """`strategy` is asked nothing."""
    said = config.replace("the test", url=url, state_dir=str(tmp_path), strategy="file_copy")
    server = open_server(said)
    note(server, template(60 * MEGABYTE), "file_copy", 1.0)
    assert choose(server, template(60 * MEGABYTE)) == "file_copy"
    assert not (tmp_path / "copying.json").exists()
    server.close()


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


def test_a_clone_that_shares_the_template_s_blocks(items: Project, config: Config, reflinks: Path) -> None:
    """PostgreSQL 18 on xfs: a clone has the template's rows, takes no space, and is nobody else's when written to."""
    import clonedb

    items.revision(
        "three", 'op.execute("create table big as select repeat(n::text, 99) t from generate_series(1, 60000) n")'
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
                assert opened.server.run(lambda c: c.execute("show file_copy_method").fetchone()) == ("clone",)
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
