"""Layers under fire: gone meanwhile, failing, killed, asked for by several at once; what is left, and what is said."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from clonedb.errors import MigrationError
from clonedb.settings.config import Config
from clonedb.templates import layers
from clonedb.templates.metadata import Metadata
from tests.faults.conftest import Start, start
from tests.faults.processes import HANG, count, demand_nothing_left
from tests.projects import CLONEDB, PYTEST, Project, databases
from tests.templates.conftest import opened

__all__ = ["start"]

Configured = Callable[..., Config]
COUNT = 'with open(os.environ["COUNT"], "a") as file:\n    file.write("ran\\n")\n'


@pytest.mark.campaign("kills")
def test_a_builder_killed_upon_a_layer(
    items: Project, start: Start, admin_dsn: str, tmp_path: Path
) -> None:
    """kill -9: the copy of the layer goes, the layer stays, and the next build is upon it again."""
    items.clonedb("build").demand()
    prefix = items.environment["CLONEDB_PREFIX"]
    (layer,) = databases(admin_dsn, prefix)
    items.revision("three", HANG)
    builder = start(items, *CLONEDB, "build", HANG=str(tmp_path / "hangs"))
    builder.wait_for(tmp_path / "hangs")
    assert len(databases(admin_dsn, prefix)) == 2
    builder.kill()
    assert f"upon '{layer}': 1 of 3 revisions" in items.clonedb("build").demand().err
    demand_nothing_left(items, admin_dsn)
    assert len(databases(admin_dsn, prefix)) == 2


@pytest.mark.campaign("long")
def test_a_stopped_builder(items: Project, start: Start, tmp_path: Path) -> None:
    """Ctrl-Z in another terminal: who waits is told, and how to continue it."""
    items.revision("three", HANG)
    builder = start(items, *CLONEDB, "build", HANG=str(tmp_path / "hangs"))
    builder.wait_for(tmp_path / "hangs")
    builder.process.send_signal(signal.SIGSTOP)
    outcome = items.clonedb("build", CLONEDB_LOCK_TIMEOUT="2").demand(1)
    pid = builder.process.pid
    told = rf"is being built by pid {pid} since \d+ s \(it is stopped: `kill -CONT {pid}` continues it\)"
    assert re.search(told, outcome.err)


@pytest.mark.campaign("long")
def test_two_builders_at_once(
    items: Project, start: Start, admin_dsn: str, tmp_path: Path
) -> None:
    """One migrates, upon the layer; the other waits for it."""
    items.clonedb("build").demand()
    counter = tmp_path / "count"
    items.environment["COUNT"] = str(counter)
    items.revision("three", COUNT + "time.sleep(1)")
    outcomes = [
        program.outcome().demand()
        for program in [start(items, *CLONEDB, "build") for _ in range(3)]
    ]
    assert count(counter) == 1
    assert sum("1 of 3 revisions" in outcome.err for outcome in outcomes) == 1
    demand_nothing_left(items, admin_dsn)


@pytest.mark.campaign("long")
def test_workers_with_seeds(items: Project, admin_dsn: str, tmp_path: Path) -> None:
    """Under -n 2 the schema is built once and so are the seeds; a later run finds both."""
    items.environment["COUNT"] = str(tmp_path / "count")
    items.revision("three", COUNT)
    items.write(
        "seeds.py",
        "import os\ndef fill(connection):\n    "
        + COUNT.replace("\n    ", "\n        ").strip()
        + "\n",
    )
    items.settings(seed=["seeds:fill"])
    items.write(
        "test_it.py",
        "import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n, clonedb): pass\n",
    )
    items.run(*PYTEST, "-n", "2").demand()
    assert count(tmp_path / "count") == 2
    items.run(*PYTEST).demand()
    assert count(tmp_path / "count") == 2
    assert len(databases(admin_dsn, items.environment["CLONEDB_PREFIX"])) == 2
    items.run(*PYTEST, "--clonedb-rebuild").demand()
    assert count(tmp_path / "count") == 4
    items.run(*PYTEST, "--clonedb-frozen").demand()


def test_a_migration_that_fails_upon_a_layer(
    items: Project, admin_dsn: str, tmp_path: Path
) -> None:
    """It is tried from zero, once for the layer, which says so; its error is the one that is shown; nothing is left."""
    counter = tmp_path / "count"
    items.environment["COUNT"] = str(counter)
    items.revision("three", COUNT)
    items.clonedb("build").demand()
    items.revision("four", 'op.execute("select 1 / 0")')
    outcome = items.clonedb("build").demand(1)
    assert re.search(
        r"template '\w+' cannot be built upon: revision 'four' .*; building template '\w+' from the",
        outcome.err,
    )
    assert (
        outcome.err.count(
            "clonedb: revision 'four' (migrations/versions/four.py:10) failed: DivisionByZero"
        )
        == 1
    )
    assert count(counter) == 2
    items.revision("four", 'op.execute("nonsense")', down="three")
    outcome = items.clonedb("build").demand(1)
    assert re.search(
        r"tried upon '\w+' only; `clonedb build --force` begins from nothing", outcome.err
    )
    assert (
        "clonedb: revision 'four' (migrations/versions/four.py:10) failed: SyntaxError"
        in outcome.err
    )
    assert count(counter) == 2
    items.revision("four", "pass", down="three")
    items.clonedb("build").demand()
    assert count(counter) == 2
    assert len(databases(admin_dsn, items.environment["CLONEDB_PREFIX"])) == 2


def test_a_layer_that_is_to_blame_is_taken_no_more(
    items: Project, configured: Configured
) -> None:
    """What a revision leaves in its session, and only there: a template built upon it fails, one from zero does not."""
    items.revision("three", 'op.execute("create temporary table rest (id int)")')
    opened(configured())[0].close()
    items.revision("four", 'op.execute("insert into rest values (1)")')
    template, heard = opened(configured())
    template.close()
    assert [line for line in heard.lines if "cannot be built upon: revision 'four'" in line]
    items.revision("four", 'op.execute("insert into rest values (2)")', down="three")
    template, heard = opened(configured())
    template.close()
    assert heard.built() == "from zero"
    assert not [line for line in heard.lines if "cannot be built upon" in line]


def test_a_layer_that_was_collected(
    items: Project, configured: Configured, admin_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped between being chosen and being copied: said, and built from zero."""
    opened(configured())[0].close()
    items.revision("three", "pass")
    chosen = layers.deepest

    def dropped(server, wanted):
        for layer in chosen(server, wanted):
            with psycopg.connect(admin_dsn, autocommit=True) as connection:
                connection.execute(f'alter database "{layer.name}" is_template false'.encode())
                connection.execute(f'drop database "{layer.name}"'.encode())
            yield layer

    monkeypatch.setattr(layers, "deepest", dropped)
    template, heard = opened(configured())
    template.close()
    assert any("was dropped meanwhile; building template" in line for line in heard.lines)
    assert template.heads == ("three",)


def test_a_failure_from_zero_is_raised_once(items: Project, configured: Configured) -> None:
    """A broken history has one error, with or without layers."""
    items.revision("three", 'op.execute("nonsense")', down="missing")
    with pytest.raises(MigrationError, match="missing"):
        opened(configured())


def test_what_an_older_clonedb_wrote_is_no_layer() -> None:
    """Its templates have no digest of what they are made of; what is no comment of ours at all is nobody's."""
    old = {
        "project": "p",
        "fingerprint": "f",
        "heads": ["a"],
        "revisions": 1,
        "made": 1.0,
        "used": 1.0,
        "by": "x",
        "run": "r",
        "seconds": 1.0,
        "size": 1,
    }
    read = Metadata.from_json(json.dumps({"clonedb": old}))
    assert read is not None
    assert (read.layer, read.depth) == ("", 0)
    assert Metadata.from_json(read.to_json()) == read
    for text in (
        None,
        "",
        "x",
        "[]",
        "{}",
        '{"clonedb": []}',
        '{"clonedb": {"heads": 1}}',
        '{"clonedb": {"new": 1}}',
    ):
        assert Metadata.from_json(text) is None
