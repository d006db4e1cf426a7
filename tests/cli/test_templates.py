"""`clonedb build`, `status`, `list`, `fingerprint`: templates from the shell."""

from __future__ import annotations

import itertools
import re

import pytest

from tests.cli.conftest import Command
from tests.projects import Project, databases

_numbers = itertools.count()


@pytest.fixture
def prefix(shared_prefix: str) -> str:
    """A prefix of the test's own: each begins without a template."""
    return f"{shared_prefix}_{next(_numbers)}"


def test_build_once(cli: Command, admin_dsn: str, items: Project, prefix: str) -> None:
    """The first `build` builds and says so, the second finds it there, `--force` builds anew under the same name."""
    assert "no database of clonedb's on embedded server" in cli("list").out
    before = cli("status").out
    assert "state     not built; the next test that asks for a database builds it, or `clonedb build`" in before
    assert f"project   project in {items.directory}" in before
    assert "server    embedded server (PostgreSQL " in before
    built = cli("build")
    (name,) = databases(admin_dsn, prefix)
    assert f"template  {name}\n" in before
    assert re.fullmatch(rf"{name}: built in \d+\.\d s, at two, \d+\.\d MB\n", built.out)
    assert f"clonedb: template '{name}' is ready: 2 revisions in " in built.err
    again = cli("build")
    assert re.fullmatch(rf"{name}: already there, at two, \d+\.\d MB\n", again.out)
    assert again.err == ""
    assert ": built in " in cli("build", "--force").out
    assert databases(admin_dsn, prefix) == [name]
    assert re.search(r"state     ready: at two, built \d+ seconds ago by \w+ on \S+, pid \d+", cli("status").out)
    listed = cli("list").out.splitlines()
    assert listed[0].split() == ["database", "kind", "size", "what"]
    assert re.fullmatch(rf"{name} +template +\d+\.\d MB +project, at two *", listed[1])
    assert len(listed) == 2


def test_a_build_that_fails(admin_dsn: str, items: Project, prefix: str) -> None:
    """Exit code 1, the migration's error in one message, and nothing on the server."""
    items.revision("bad", 'op.execute("create tabel oops (x int)")')
    outcome = items.clonedb("build").demand(1)
    assert "clonedb: revision 'bad' (migrations/versions/bad.py:10) failed: SyntaxError" in outcome.err
    assert outcome.out == ""
    assert databases(admin_dsn, prefix) == []
    assert items.clonedb("run", "--", "echo", "not run").demand(1).out == ""
    assert databases(admin_dsn, prefix) == []


def test_fingerprint(cli: Command, items: Project) -> None:
    """Nothing but 64 hexadecimal digits: usable as a cache key, the same until an input changes."""
    digest = cli("fingerprint").out
    assert re.fullmatch(r"[0-9a-f]{64}\n", digest)
    assert cli("fingerprint").out == digest
    items.revision("three", "pass")
    assert cli("fingerprint").out != digest


def test_fingerprint_explained(cli: Command, items: Project) -> None:
    """The inputs, and what differs from the newest template after an edit, an addition and a removal."""
    items.settings(keep="none")
    explained = cli("fingerprint", "--explain").out
    assert "there is no template of this project on the server yet" in explained
    cli("build")
    explained = cli("fingerprint", "--explain").out
    assert re.search(r"^  [0-9a-f]{12}  revision   migrations/versions/one.py$", explained, re.MULTILINE)
    assert re.search(r"^  [0-9a-f]{12}  env        migrations/env.py$", explained, re.MULTILINE)
    assert re.search(r"^the newest template, \w+, has this fingerprint$", explained, re.MULTILINE)
    items.revision("three", "pass")
    versions = items.directory / "migrations/versions"
    (versions / "two.py").write_text((versions / "two.py").read_text() + "\n# edited\n")
    (items.directory / "seed.sql").write_text("select 1;")
    items.settings(seed=["seed.sql"])
    _, against, difference = cli("fingerprint", "--explain").out.partition("against the newest template, ")
    assert against
    changes = {tuple(line.split()) for line in difference.splitlines()[1:]}
    assert {("changed", "revision", "migrations/versions/two.py")} < changes
    assert ("added", "revision", "migrations/versions/three.py") in changes
    assert ("added", "seed", "seed.sql") in changes
    assert not [change for change in changes if change[2].endswith("one.py")]


def test_list_shows_what_each_database_is(cli: Command, items: Project) -> None:
    """Templates, kept clones and clones in use; a database of another prefix is somebody else's."""
    items.write(
        "test_it.py",
        """
        import os, subprocess, sys

        def test_kept(clonedb):
            subprocess.run([sys.executable, "-m", "clonedb.cli", "list"], check=True)
            assert 0
        """,
    )
    during = items.pytest("-s", "-p", "no:asyncio").demand(1).out
    assert re.search(r"_c_\S+ +clone +\d+\.\d MB +its owner lives", during)
    assert re.search(r"_t_\S+ +template +\d+\.\d MB +project, at two, in use", during)
    after = cli("list").out
    assert re.search(r"_c_\S+ +kept clone +\d+\.\d MB +project, test_it.py::test_kept", after)
    assert re.search(r"_t_\S+ +template +\d+\.\d MB +project, at two *$", after, re.MULTILINE)


def test_commands_without_a_project(cli: Command, items: Project) -> None:
    """Those that need migrations say where they looked; those that need only a server work."""
    empty = items.directory / "empty"
    (empty / ".git").mkdir(parents=True)
    for command in ("build", "status", "fingerprint", "clone"):
        outcome = cli("-C", str(empty), command, code=1)
        assert outcome.err.startswith("clonedb: no Alembic migrations were found; looked at\n")
        assert "run `alembic init migrations`" in outcome.err
    assert "no database of clonedb's" in cli("-C", str(empty), "list").out
    assert cli("-C", str(empty), "gc").out == "nothing is left over\n"
    cli("-C", str(empty), "config")
