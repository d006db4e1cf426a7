"""What changes a template's fingerprint, and how that shows."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from clonedb.migrate.recipes import find_recipe
from clonedb.project.fingerprint import Difference, differences, fingerprint
from clonedb.settings.keys import TEMPLATE_KEYS
from tests.fingerprint.sample import (
    FILE_KINDS,
    FILES,
    SERVER,
    Change,
    Sample,
    Shown,
    changed,
    edit,
    rewrite,
    setting,
)


@pytest.mark.parametrize("name", FILE_KINDS)
def test_an_edit_changes_its_own_input_and_no_other(sample: Sample, name: str) -> None:
    """Every file under the script location, seeds, watched files, and what revisions and seeds import in the end."""
    assert changed(sample, edit(name)) == {("changed", FILE_KINDS[name], name)}


def test_an_edit_of_a_seeding_module_changes_the_seed(sample: Sample) -> None:
    """The module that a seed names is the seed."""
    assert changed(sample, edit("shop/seeding/__init__.py")) == {
        ("changed", "seed", "shop.seeding:fill")
    }


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
def test_what_editors_and_python_leave_behind_changes_nothing(
    sample: Sample, name: str
) -> None:
    """Caches, backups and hidden files take no part."""
    assert changed(sample, lambda sample: sample.write(name, "x")) == set()


CHANGES: dict[str, tuple[Change, set[Shown]]] = {
    "new revision": (
        lambda sample: sample.write("migrations/versions/c.py", "import shop.unused"),
        {
            ("added", "revision", "migrations/versions/c.py"),
            ("added", "import", "shop/unused.py"),
        },
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
        lambda sample: (sample.rootdir / "migrations/sql").rename(
            sample.rootdir / "migrations/ddl"
        ),
        {
            ("removed", "script", "migrations/sql/view.sql"),
            ("added", "script", "migrations/ddl/view.sql"),
        },
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
    "x twice": (
        setting(x=["tenant=one", "tenant=two", "flag"]),
        {("changed", "x", "tenant"), ("added", "x", "flag")},
    ),
    "x url": (
        setting(x=["tenant=one", "url=postgresql://a:b@c/d", "postgres://a:b@c/d"]),
        set(),
    ),
    "fewer seeds": (
        setting(seed=["seeds.sql"]),
        {
            ("removed", "seed", "shop.seeding:fill"),
            ("removed", "seed", "(order)"),
            ("removed", "import", "shop/names.py"),
        },
    ),
    "order of seeds": (
        setting(seed=["shop.seeding:fill", "seeds.sql"]),
        {("changed", "seed", "(order)")},
    ),
    "seed of an installed package": (
        setting(seed=["seeds.sql", "shop.seeding:fill", "json.tool:main"]),
        {("added", "seed", "json.tool:main"), ("changed", "seed", "(order)")},
    ),
    "watch": (setting(watch=["schema/one.csv"]), {("removed", "watch", "schema/two.csv")}),
    "watch what is in already": (
        setting(watch=["schema/*", "**/a.py", "seeds.sql", "shop/data.py"]),
        set(),
    ),
    "watch hidden": (
        setting(watch=["schema/*.csv", ".env*"]),
        {("added", "watch", ".env.test")},
    ),
    "option": (rewrite("= versions", "= other"), {("changed", "option", "version_table")}),
    "new option": (rewrite("data =", "schema = main\ndata ="), {("added", "option", "schema")}),
    "option over the file's": (
        setting(alembic={"version_table": "x"}),
        {("changed", "option", "version_table")},
    ),
    "recursive": (
        setting(alembic={"recursive_version_locations": "true"}),
        {("added", "option", "recursive_version_locations")},
    ),
    "not recursive": (setting(alembic={"recursive_version_locations": "false"}), set()),
    "url": (rewrite("sesame@localhost", "other@elsewhere"), set()),
    "another url": (
        setting(
            alembic={"database_url": "x", "db.dsn": "y", "primary": "postgresql+asyncpg://z"}
        ),
        set(),
    ),
    "echo": (setting(alembic={"sqlalchemy.echo": "true", "sqlalchemy.pool_size": "3"}), set()),
    "name of new files": (rewrite("%%(rev)s", "%%(slug)s"), set()),
    "logging": (lambda sample: sample.append("alembic.ini", "[loggers]\nkeys = root\n"), set()),
    "path by another name": (rewrite("= migrations", "= %(here)s/migrations"), set()),
    "where to keep state": (
        setting(state_dir="/elsewhere", keep="none", prefix="other", isolation="clone"),
        set(),
    ),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_change_shows_as_what_it_is(
    sample: Sample, change: Change, expected: set[Shown]
) -> None:
    """Added, removed or changed, by kind and name; what cannot change the template changes nothing."""
    assert changed(sample, change) == expected


@pytest.mark.parametrize(
    "facts", [{"major": 17}, {"encoding": "LATIN1"}, {"locale": "de_DE"}, {"role": "ci"}]
)
def test_the_server_counts(sample: Sample, facts: dict[str, object]) -> None:
    """A template of another major version, encoding, locale or role is another template."""
    before, after = sample.fingerprint(), sample.fingerprint(server=SERVER._replace(**facts))  # type: ignore[arg-type]

    (name,) = facts
    assert differences(before.abbreviated(), after) == [Difference("changed", "server", name)]
    assert before.digest != after.digest


def test_the_versions_of_the_tools_count(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert differences(usual.abbreviated(), sample.fingerprint()) == [
        Difference("changed", "version", "alembic")
    ]


def test_versions_are_found_without_dist_info(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation that importlib.metadata alone knows, such as an old editable one."""
    usual = sample.fingerprint()
    for name in ("alembic", "sqlalchemy"):
        (tmp_path / f"{name}.egg-info").mkdir()
        (tmp_path / f"{name}.egg-info" / "PKG-INFO").write_text(
            f"Name: {name}\nVersion: {metadata.version(name)}\n"
        )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    assert sample.fingerprint() == usual


# for each setting that makes a template: another value than the sample's
OTHER_VALUES: dict[str, object] = {
    "alembic": {"version_table": "other"},
    "alembic_ini": "other.ini",
    "alembic_section": "other",
    "extensions": ["pgcrypto", "vector"],
    "locale": "C",
    "metadata": ["shop.data:rows"],
    "migrate": ["shop"],
    "prepare": "shop.data:rows",
    "roles": ["app", "other"],
    "salt": "pepper",
    "schema": ["seeds.sql"],
    "seed": ["seeds.sql"],
    "target": "a",
    "watch": ["schema/one.csv"],
    "watch_env": ["TENANTS"],
    "x": ["tenant=two"],
}


@pytest.mark.parametrize("name", sorted(TEMPLATE_KEYS - {"base"}))
def test_every_setting_of_a_template_is_an_input(sample: Sample, name: str) -> None:
    """Two values of a setting that makes a template never give one template."""
    sample.write("other.ini", (sample.rootdir / "alembic.ini").read_text() + "other = 1\n")
    sample.append("alembic.ini", "[other]\nscript_location = migrations\nother = 1\n")
    assert changed(sample, setting(**{name: OTHER_VALUES[name]}))


def test_the_base_is_an_input(sample: Sample) -> None:
    """The digest of the template below counts, and so whatever changes that one."""
    sources = find_recipe(sample.config).inputs(None)
    found = [
        fingerprint(sample.config, sources, SERVER, base=base)
        for base in (None, "0" * 64, "1" * 64)
    ]
    assert len({one.digest for one in found}) == 3


def test_prepare_is_an_input(sample: Sample) -> None:
    """By its name: what it imports counts as little as what env.py imports."""
    assert changed(sample, setting(prepare="shop.db:configure")) == {
        ("added", "prepare", "prepare")
    }
