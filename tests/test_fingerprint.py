"""What changes a template's fingerprint, and what does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from clonedb.config import Config
from clonedb.fingerprint import (
    Difference,
    Fingerprint,
    Input,
    ServerFacts,
    differences,
    fingerprint,
)
from clonedb.project import find_project

SERVER = ServerFacts(major=18, encoding="UTF8", locale="C.UTF-8")
FILES = {
    "alembic.ini": "[alembic]\nscript_location = migrations\nprepend_sys_path = .\nversion_table = versions\n"
    "sqlalchemy.url = postgresql://somebody:sesame@localhost/shop\nfile_template = %%(rev)s\ndata = %(here)s/data\n",
    "migrations/env.py": "from shop import models\n",
    "migrations/script.py.mako": "",
    "migrations/tables.py": "from shop import unused\n",
    "migrations/sql/view.sql": "-- CREATE EXTENSION nothing\nCREATE EXTENSION IF NOT EXISTS citext;\n",
    "migrations/versions/__init__.py": "",
    "migrations/versions/a.py": "from shop.data import rows\n",
    "migrations/versions/b.py": "op.execute('CREATE EXTENSION \"uuid-ossp\"')\n",
    "shop/__init__.py": "",
    "shop/data.py": "from .rules import rule\n",
    "shop/rules.py": "EXTENSION = 'create extension hstore'\n",
    "shop/models.py": "TEXT = 'CREATE EXTENSION ltree'\n",
    "shop/unused.py": "",
    "shop/seeding/__init__.py": "def fill(connection):\n    from shop.names import NAMES\n",
    "shop/names.py": "",
    "seeds.sql": "CREATE EXTENSION pg_trgm; INSERT INTO a VALUES (1);\n",
    "schema/one.csv": "1,2\n",
    "schema/two.csv": "3,4\n",
    ".env.test": "",
    "README.md": "",
}
SETTINGS: dict[str, object] = {
    "seed": ["seeds.sql", "shop.seeding:fill"],
    "watch": ["schema/*.csv"],
    "extensions": ["pgcrypto"],
    "roles": ["app"],
    "x": ["tenant=one"],
}


@dataclass
class Sample:
    """A project with every kind of input."""

    rootdir: Path
    settings: dict[str, object]

    @property
    def config(self) -> Config:
        return Config(rootdir=self.rootdir).replace("test", **self.settings)

    def fingerprint(self, *, server: ServerFacts = SERVER, index_dir: Path | None = None) -> Fingerprint:
        return fingerprint(self.config, find_project(self.config), server, index_dir=index_dir)

    def write(self, name: str, text: str) -> None:
        path = self.rootdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def append(self, name: str, text: str) -> None:
        self.write(name, (self.rootdir / name).read_text() + text)


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.delenv("ALEMBIC_CONFIG", raising=False)
    sample = Sample(tmp_path / "checkout", dict(SETTINGS))
    for name, text in FILES.items():
        sample.write(name, text)
    monkeypatch.chdir(sample.rootdir)
    return sample


Change = Callable[[Sample], object]
Shown = tuple[str, str, str]


def changed(sample: Sample, change: Change) -> set[Shown]:
    """What a change does to the inputs; the digest changes exactly when they do."""
    before = sample.fingerprint()
    change(sample)
    after = sample.fingerprint()
    found: set[Shown] = {(d.change, d.kind, d.name) for d in differences(before.abbreviated(), after)}
    assert bool(found) == (before.digest != after.digest)
    return found


def edit(name: str) -> Change:
    return lambda sample: sample.append(name, "\n# edited\n")


def setting(**settings: object) -> Change:
    return lambda sample: sample.settings.update(settings)


def rewrite(old: str, new: str) -> Change:
    def change(sample: Sample) -> None:
        text = (sample.rootdir / "alembic.ini").read_text()
        assert old in text
        sample.write("alembic.ini", text.replace(old, new))

    return change


FILE_KINDS = {
    "migrations/env.py": "env",
    "migrations/script.py.mako": "script",
    "migrations/tables.py": "script",
    "migrations/sql/view.sql": "script",
    "migrations/versions/__init__.py": "script",
    "migrations/versions/a.py": "revision",
    "migrations/versions/b.py": "revision",
    "shop/__init__.py": "import",
    "shop/data.py": "import",
    "shop/rules.py": "import",
    "shop/names.py": "import",
    "seeds.sql": "seed",
    "schema/one.csv": "watch",
}


@pytest.mark.parametrize("name", FILE_KINDS)
def test_an_edit_changes_its_own_input_and_no_other(sample: Sample, name: str) -> None:
    """Every file under the script location, seeds, watched files, and what revisions and seeds import in the end."""
    assert changed(sample, edit(name)) == {("changed", FILE_KINDS[name], name)}


def test_an_edit_of_a_seeding_module_changes_the_seed(sample: Sample) -> None:
    """The module that a seed names is the seed."""
    assert changed(sample, edit("shop/seeding/__init__.py")) == {("changed", "seed", "shop.seeding:fill")}


@pytest.mark.parametrize("name", ["shop/models.py", "shop/unused.py", "README.md"])
def test_an_edit_elsewhere_changes_nothing(sample: Sample, name: str) -> None:
    """Models that only env.py imports, modules that only an unused script imports, and any other file."""
    assert changed(sample, edit(name)) == set()


@pytest.mark.parametrize(
    "name",
    [
        "migrations/versions/__pycache__/a.cpython-312.pyc",
        "migrations/versions/a.pyc",
        "migrations/versions/a.py~",
        "migrations/versions/#a.py#",
        "migrations/versions/.#a.py",
        "migrations/versions/.a.py.swp",
        "migrations/a.py.orig",
        "migrations/.DS_Store",
        "migrations/.git/config",
        "schema/.hidden.csv",
    ],
)
def test_what_editors_and_python_leave_behind_changes_nothing(sample: Sample, name: str) -> None:
    """Caches, backups and hidden files take no part."""
    assert changed(sample, lambda sample: sample.write(name, "x")) == set()


CHANGES: dict[str, tuple[Change, set[Shown]]] = {
    "new revision": (
        lambda sample: sample.write("migrations/versions/c.py", "import shop.unused"),
        {("added", "revision", "migrations/versions/c.py"), ("added", "import", "shop/unused.py")},
    ),
    "hidden revision, which Alembic loads": (
        lambda sample: sample.write("migrations/versions/.c.py", ""),
        {("added", "revision", "migrations/versions/.c.py")},
    ),
    "removed revision": (
        lambda sample: (sample.rootdir / "migrations/versions/a.py").unlink(),
        {("removed", "revision", "migrations/versions/a.py")}
        | {("removed", "import", f"shop/{name}.py") for name in ("data", "rules")},
    ),
    "renamed script": (
        lambda sample: (sample.rootdir / "migrations/sql").rename(sample.rootdir / "migrations/ddl"),
        {("removed", "script", "migrations/sql/view.sql"), ("added", "script", "migrations/ddl/view.sql")},
    ),
    "line endings": (
        lambda sample: sample.write(
            "migrations/versions/b.py", FILES["migrations/versions/b.py"].replace("\n", "\r\n")
        ),
        {("changed", "revision", "migrations/versions/b.py")},
    ),
    "target": (setting(target="a"), {("changed", "target", "target")}),
    "salt": (setting(salt="pepper"), {("added", "salt", "salt")}),
    "extension": (
        setting(extensions=["pgcrypto", "vector"]),
        {("added", "extension", "vector")},
    ),
    "role": (setting(roles=[]), {("removed", "role", "app")}),
    "x": (setting(x=["tenant=two"]), {("changed", "x", "tenant")}),
    "x twice": (setting(x=["tenant=one", "tenant=two", "flag"]), {("changed", "x", "tenant"), ("added", "x", "flag")}),
    "x url": (setting(x=["tenant=one", "url=postgresql://a:b@c/d", "postgres://a:b@c/d"]), set()),
    "fewer seeds": (
        setting(seed=["seeds.sql"]),
        {
            ("removed", "seed", "shop.seeding:fill"),
            ("removed", "seed", "(order)"),
            ("removed", "import", "shop/names.py"),
        },
    ),
    "order of seeds": (setting(seed=["shop.seeding:fill", "seeds.sql"]), {("changed", "seed", "(order)")}),
    "seed of an installed package": (
        setting(seed=["seeds.sql", "shop.seeding:fill", "json.tool:main"]),
        {("added", "seed", "json.tool:main"), ("changed", "seed", "(order)")},
    ),
    "watch": (setting(watch=["schema/one.csv"]), {("removed", "watch", "schema/two.csv")}),
    "watch what is in already": (setting(watch=["schema/*", "**/a.py", "seeds.sql", "shop/data.py"]), set()),
    "watch hidden": (
        setting(watch=["schema/*.csv", ".env*"]),
        {("added", "watch", ".env.test")},
    ),
    "option": (rewrite("= versions", "= other"), {("changed", "option", "version_table")}),
    "new option": (rewrite("data =", "schema = main\ndata ="), {("added", "option", "schema")}),
    "option over the file's": (setting(alembic={"version_table": "x"}), {("changed", "option", "version_table")}),
    "recursive": (
        setting(alembic={"recursive_version_locations": "true"}),
        {("added", "option", "recursive_version_locations")},
    ),
    "not recursive": (setting(alembic={"recursive_version_locations": "false"}), set()),
    "url": (rewrite("sesame@localhost", "other@elsewhere"), set()),
    "another url": (setting(alembic={"database_url": "x", "db.dsn": "y", "primary": "postgresql+asyncpg://z"}), set()),
    "echo": (setting(alembic={"sqlalchemy.echo": "true", "sqlalchemy.pool_size": "3"}), set()),
    "name of new files": (rewrite("%%(rev)s", "%%(slug)s"), set()),
    "logging": (lambda sample: sample.append("alembic.ini", "[loggers]\nkeys = root\n"), set()),
    "path by another name": (rewrite("= migrations", "= %(here)s/migrations"), set()),
    "where to keep state": (setting(state_dir="/elsewhere", keep="none", prefix="other", isolation="clone"), set()),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_change_shows_as_what_it_is(sample: Sample, change: Change, expected: set[Shown]) -> None:
    """Added, removed or changed, by kind and name; what cannot change the template changes nothing."""
    assert changed(sample, change) == expected


@pytest.mark.parametrize("facts", [{"major": 17}, {"encoding": "LATIN1"}, {"locale": "de_DE"}])
def test_the_server_counts(sample: Sample, facts: dict[str, object]) -> None:
    """A template of another major version, encoding or locale is another template."""
    before, after = sample.fingerprint(), sample.fingerprint(server=replace(SERVER, **facts))  # type: ignore[arg-type]

    (name,) = facts
    assert differences(before.abbreviated(), after) == [Difference("changed", "server", name)]
    assert before.digest != after.digest


def test_the_versions_of_the_tools_count(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Major and minor version of Alembic and SQLAlchemy, as importlib.metadata has it; patches do not count."""

    def install(version: str) -> None:
        site = tmp_path / version
        (site / "alembic").mkdir(parents=True)
        (site / f"alembic-{version}.dist-info").mkdir()
        monkeypatch.syspath_prepend(str(site))

    version = metadata.version("alembic")
    usual = sample.fingerprint()
    install(version)
    assert sample.fingerprint() == usual
    install(".".join(version.split(".")[:2]) + ".999")
    assert sample.fingerprint() == usual
    install("9.1.0")
    assert differences(usual.abbreviated(), sample.fingerprint()) == [Difference("changed", "version", "alembic")]


def test_versions_are_found_without_dist_info(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that importlib.metadata alone knows, such as an old editable one."""
    usual = sample.fingerprint()
    for name in ("alembic", "sqlalchemy"):
        (tmp_path / f"{name}.egg-info").mkdir()
        (tmp_path / f"{name}.egg-info" / "PKG-INFO").write_text(f"Name: {name}\nVersion: {metadata.version(name)}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    assert sample.fingerprint() == usual


def test_the_digest_is_that_of_the_inputs(sample: Sample) -> None:
    """64 hexadecimal digits, the first twelve for names; inputs are ordered and say everything."""
    found = sample.fingerprint()

    assert len(found.digest) == 64
    assert found.digest.startswith(found.short)
    assert len(found.short) == 12
    assert [item.kind for item in found.inputs] == sorted(item.kind for item in found.inputs)
    kinds = "env extension format import option revision role script seed server target version watch x"
    assert sorted({item.kind for item in found.inputs}) == kinds.split()
    assert json.loads(json.dumps(found.abbreviated())) == found.abbreviated()
    assert "sesame" not in repr(found)


def test_a_touch_changes_nothing(sample: Sample, tmp_path: Path) -> None:
    """Times are how changes are noticed, not what they are."""
    before = sample.fingerprint(index_dir=tmp_path / "index")
    for name in FILES:
        os.utime(sample.rootdir / name, (1, 1))
    assert sample.fingerprint(index_dir=tmp_path / "index") == before
    for name in FILES:
        os.utime(sample.rootdir / name, (4e9, 4e9))
    assert sample.fingerprint(index_dir=tmp_path / "index") == before


def test_moving_the_checkout_changes_nothing(sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another directory, a link to it, and another current directory give the same fingerprint."""
    before = sample.fingerprint()
    copy = Sample(tmp_path / "a" / "copy with spaces", sample.settings)
    shutil.copytree(sample.rootdir, copy.rootdir)
    link = Sample(tmp_path / "link", sample.settings)
    link.rootdir.symlink_to(sample.rootdir)

    assert copy.fingerprint() == before
    assert link.fingerprint() == before
    monkeypatch.chdir("/")
    assert copy.fingerprint() == before
    assert link.fingerprint() == before


def test_migrations_reached_through_a_link_have_the_same_names(sample: Sample, tmp_path: Path) -> None:
    """The project's directory by one path, the migrations by another: the files are still the project's."""
    before = sample.fingerprint()
    link = tmp_path / "link"
    link.symlink_to(sample.rootdir)
    sample.settings["alembic"] = {"script_location": str(link / "migrations")}

    assert sample.fingerprint() == before


PROGRAM = """
import json, sys
from pathlib import Path
from clonedb.config import Config
from clonedb.fingerprint import ServerFacts, fingerprint
from clonedb.project import find_project
settings = json.loads(sys.argv[2])
config = Config(rootdir=Path(sys.argv[1])).replace("test", **settings)
server = ServerFacts(major=18, encoding="UTF8", locale="C.UTF-8")
opened = []
index = Path(sys.argv[3]) if len(sys.argv) > 3 else None
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(sys.argv[1]):
        opened.append(arguments[0][len(sys.argv[1]) + 1:])
project = find_project(config)
sys.addaudithook(hook)
digest = fingerprint(config, project, server, index_dir=index).digest
heavy = {"alembic", "sqlalchemy", "psycopg", "importlib.metadata"} & sys.modules.keys()
print(json.dumps([digest, sorted(opened), sorted(heavy)]))
"""


def run(sample: Sample, *arguments: str, **environment: str) -> tuple[str, list[str], list[str]]:
    """The digest, the project's files that were opened, and heavy modules loaded, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(sample.rootdir), json.dumps(sample.settings), *arguments],
        env={**os.environ, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    digest, opened, modules = json.loads(done.stdout)
    return digest, opened, modules


def test_the_process_does_not_matter(sample: Sample) -> None:
    """Locale, hash seed, directory and sys.path leave the digest alone, and nothing heavy is imported."""
    sample.write("migrations/sql/größe.sql", "SELECT 1")
    here = sample.fingerprint().digest

    assert run(sample, PYTHONHASHSEED="1", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")[0] == here
    path = os.pathsep.join([str(sample.rootdir / "shop"), *sys.path])
    digest, _, modules = run(sample, PYTHONHASHSEED="2", LC_ALL="C.UTF-8", PYTHONPATH=path)
    assert (digest, modules) == (here, [])


def test_only_changed_files_are_read_again(sample: Sample, tmp_path: Path) -> None:
    """A second look opens nothing; after an edit, only the file that was edited."""
    time.sleep(2.1)  # what was modified within two seconds is not remembered
    index = str(tmp_path / "index")
    first, opened, _ = run(sample, index)
    assert set(FILE_KINDS) <= set(opened)
    assert run(sample, index)[:2] == (first, [])
    sample.append("shop/rules.py", "RULE = 1\n")
    second, opened, _ = run(sample, index)
    assert opened == ["shop/rules.py"]
    assert second == sample.fingerprint().digest != first


INPUTS = st.lists(
    st.builds(
        Input,
        st.sampled_from(["revision", "import"]),
        st.sampled_from("abc"),
        st.sampled_from([letter * 64 for letter in "0123"]),
    ),
    max_size=8,
)


@given(INPUTS, INPUTS, st.sampled_from([12, 64]))
def test_differences_are_empty_only_for_equal_inputs(old: list[Input], new: list[Input], length: int) -> None:
    """Whatever the order and however short the stored digests are; each difference is named once."""
    after = Fingerprint("", tuple(new))
    found = differences([(item.kind, item.name, item.digest[:length]) for item in old], after)

    key = lambda item: (item.kind, item.name, item.digest)  # noqa: E731
    assert (not found) == (sorted(old, key=key) == sorted(new, key=key))
    assert len({(d.kind, d.name) for d in found}) == len(found)
    for difference in found:
        was = any((item.kind, item.name) == (difference.kind, difference.name) for item in old)
        now = any((item.kind, item.name) == (difference.kind, difference.name) for item in new)
        assert difference.change == ("changed" if was and now else "added" if now else "removed")
