"""`clonedb build`, `status`, `list`, `fingerprint`: templates from the shell."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from pathlib import Path

import pytest

from clonedb.embedded import leases
from clonedb.settings.config import Config
from tests.cli.conftest import Command, make_state_dir
from tests.projects import CLONEDB, Project, databases

_numbers = itertools.count()

AGO = r"(less than a second|\d+ \w+) ago"
BUILT = rf"built {AGO} by \S+ on \S+, pid \d+"


@pytest.fixture
def prefix(shared_prefix: str) -> str:
    """A prefix of the test's own: each begins without a template."""
    return f"{shared_prefix}_{next(_numbers)}"


def test_build_once(cli: Command, admin_dsn: str, items: Project, prefix: str) -> None:
    """The first `build` builds and says so, the second finds it there, `--force` builds anew under the same name."""
    assert "no database of clonedb's on embedded server" in cli("list").out
    before = cli("status").out
    assert (
        "state     not built; the next test that asks for a database builds it, or `clonedb build`"
        in before
    )
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
    assert re.search(
        r"state     ready: at two, built (less than a second|\d+ seconds?) ago by \w+ on \S+, pid \d+",
        cli("status").out,
    )
    listed = cli("list").out.splitlines()
    assert listed[0].split() == ["database", "kind", "size", "what"]
    assert re.fullmatch(
        rf"{name} +template +\d+\.\d MB +project \(\w{{6}}\), at two, {BUILT}, used {AGO} on \S+ *",
        listed[1],
    )
    assert len(listed) == 2


def test_a_build_that_fails(admin_dsn: str, items: Project, prefix: str) -> None:
    """Exit code 1, the migration's error in one message, and nothing on the server."""
    items.revision("bad", 'op.execute("create tabel oops (x int)")')
    outcome = items.clonedb("build").demand(1)
    assert (
        "clonedb: revision 'bad' (migrations/versions/bad.py:10) failed: SyntaxError"
        in outcome.err
    )
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


@pytest.mark.campaign("long")
def test_a_fingerprint_is_the_same_on_every_machine(
    cli: Command, items: Project, own_server: leases.Lease, tmp_path: Path
) -> None:
    """Another checkout, server, home, locale, time zone and umask: a cache's key is `$(clonedb fingerprint)`."""
    items.settings(seed=["seed.sql"], watch=["data/*.csv"], alembic={"extra": "%(here)s/data"})
    items.write("seed.sql", "insert into item (name) values ('by the seed')")
    items.write("data/one.csv", "1")
    digest = cli("fingerprint").out
    checkout, home = tmp_path / "elsewhere/of/another/shop", tmp_path / "home"
    shutil.copytree(items.directory, checkout)
    home.mkdir()
    for path in checkout.rglob("*"):
        os.utime(path, (0, 0))
        path.chmod(0o777)
    state = make_state_dir()
    variables = {
        "CLONEDB_STATE_DIR": str(state),
        "CLONEDB_PREFIX": "another",
        "HOME": str(home),
        "LANG": "tr_TR.UTF-8",
        "LC_ALL": "POSIX",
        "TZ": "Asia/Tokyo",
        "PYTHONHASHSEED": "7",
    }
    try:
        there = cli("-C", str(checkout), "fingerprint", **variables)
        assert there.out == digest
        assert (
            "preparing an embedded PostgreSQL" in there.err
        )  # a cold machine, which says so where no key is
    finally:
        leases.stop(Config(rootdir=checkout).replace("the test", state_dir=str(state)))
        shutil.rmtree(state)


def test_a_fingerprint_that_cannot_be_told_is_no_key(items: Project) -> None:
    """`key=$(clonedb fingerprint)` fails, and nothing is printed that could be taken for one."""
    outcome = items.clonedb(
        "fingerprint", CLONEDB_URL="postgresql://nobody@127.0.0.1:1/"
    ).demand(1)
    assert outcome.out == ""
    assert outcome.err.startswith("clonedb: cannot connect to database 'postgres' of server ")


@pytest.mark.campaign("long")
def test_two_imports_at_once(cli: Command, items: Project, admin_dsn: str, prefix: str) -> None:
    """One restores, the other waits for it and finds the template there; a third has nothing to do."""
    items.revision(
        "three",
        "op.execute(\"create table big as select repeat('x', 99) t from generate_series(1, 90000)\")",
    )
    cli("export", "template.clonedb")
    cli("drop", "--all")
    both = [items.popen(*CLONEDB, "import", "template.clonedb") for _ in range(2)]
    ends = sorted(process.communicate(timeout=60)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    (name,) = databases(admin_dsn, prefix)
    assert ends[0] == f"{name}: already there, at three\n"
    assert re.fullmatch(rf"{name}: restored in \d+\.\d s, at three\n", ends[1])
    assert cli("import", "template.clonedb").out == ends[0]


def test_fingerprint_explained(cli: Command, items: Project) -> None:
    """The inputs, and what differs from the newest template after an edit, an addition and a removal."""
    items.settings(keep="none")
    explained = cli("fingerprint", "--explain").out
    assert "there is no template of this project on the server yet" in explained
    cli("build")
    explained = cli("fingerprint", "--explain").out
    assert re.search(
        r"^  [0-9a-f]{12}  revision   migrations/versions/one.py$", explained, re.MULTILINE
    )
    assert re.search(r"^  [0-9a-f]{12}  env        migrations/env.py$", explained, re.MULTILINE)
    assert re.search(
        r"^the newest template, \w+, has this fingerprint$", explained, re.MULTILINE
    )
    items.revision("three", "pass")
    versions = items.directory / "migrations/versions"
    (versions / "two.py").write_text((versions / "two.py").read_text() + "\n# edited\n")
    (items.directory / "seed.sql").write_text("select 1;")
    items.settings(seed=["seed.sql"])
    _, against, difference = cli("fingerprint", "--explain").out.partition(
        "against the newest template, "
    )
    assert against
    changes = {tuple(line.split()) for line in difference.splitlines()[1:-1]}
    assert difference.splitlines()[-1].startswith(
        "it would be built from nothing because revision 'migrations/versions/three.py' was added, revision "
    )
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
            subprocess.run([sys.executable, "-m", "clonedb", "list"], check=True)
            assert 0
        """,
    )
    during = items.pytest("-s").demand(1).out
    assert re.search(r"_c_\S+ +clone +\d+\.\d MB +its owner lives", during)
    assert re.search(
        rf"_t_\S+ +template +\d+\.\d MB +project \(\w{{6}}\), at two, {BUILT}, in use", during
    )
    after = cli("list").out
    assert re.search(
        r"_c_\S+ +kept clone +\d+\.\d MB +project \(\w{6}\), test_it.py::test_kept", after
    )
    assert re.search(
        rf"_t_\S+ +template +\d+\.\d MB +project \(\w{{6}}\), at two, {BUILT}, used {AGO} on \S+ *$",
        after,
        re.MULTILINE,
    )


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
