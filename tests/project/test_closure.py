"""Which of a project's own modules are loaded by what revisions import: Python itself is the judge."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from clonedb.project.closure import absolute, closure
from clonedb.project.contents import extensions_in_sql, read_contents

Names = Callable[..., list[str]]


@pytest.fixture
def names(tmp_path: Path) -> Names:
    """The names of the modules that a revision imports from a project of the given files."""

    def names(
        revision: str, files: dict[str, str], *, roots: tuple[str, ...] = (".",)
    ) -> list[str]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        script = tmp_path / "revision.py"
        script.write_text(revision)
        found = closure(
            [script], import_roots=[tmp_path / root for root in roots], rootdir=tmp_path
        )
        return [module.name for module in found]

    return names


SHOP = {
    "shop/__init__.py": "from .names import TITLE\n",
    "shop/names.py": "TITLE = 'shop'\n",
    "shop/models/__init__.py": "",
    "shop/models/product.py": "from ..money import Price\nfrom . import base\n",
    "shop/models/base.py": "import sqlalchemy, os.path\n",
    "shop/money.py": "def exact():\n    import shop.exact as exact\n    return exact\nPrice = int\n",
    "shop/exact.py": "import shop.money\n",
    "shop/unused.py": "raise RuntimeError\n",
}
PRODUCT = [
    "shop",
    "shop.exact",
    "shop.models",
    "shop.models.base",
    "shop.models.product",
    "shop.money",
    "shop.names",
]


@pytest.mark.parametrize(
    "revision",
    [
        "from shop.models.product import Product",
        "from shop.models import product",
        "import shop.models.product",
        "import shop.models.product as models",
        "def upgrade():\n    from shop.models import product",
        "try:\n    import shop.models.product\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('shop.models.product')",
        "from importlib import import_module\nimport_module(name='shop.models.product')",
        "__import__('shop.models.product')",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import shop.models.product",
    ],
)
def test_each_way_to_import_is_followed(names: Names, revision: str) -> None:
    """Absolute, relative, in functions, by literal name, round in circles, and every package on the way."""
    assert names(revision, SHOP) == PRODUCT


@pytest.mark.parametrize(
    "revision",
    [
        "import os, json\nimport sqlalchemy\nfrom alembic import op",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import shop",
        "import typing\nif typing.TYPE_CHECKING:\n    import shop",
        "import nothing_of_this_name",
        "from . import shop\nfrom .shop import models",
        "'import shop'  # import shop",
        "import shop this does not parse",
        "# -*- coding: no-such-codec -*-\nimport shop",
        "import importlib\nimportlib.import_module('sh' + 'op')",
        "",
    ],
)
def test_what_is_not_imported_from_the_project_is_left_out(names: Names, revision: str) -> None:
    """Other people's packages, type checking, relative imports (a revision has no package), text, broken files."""
    assert names(revision, SHOP) == []


def test_a_module_that_does_not_parse_counts_without_its_imports(names: Names) -> None:
    """The migrations will say what is wrong with it."""
    files = {**SHOP, "shop/money.py": "import shop.exact\nthis does not parse"}
    assert names("import shop.money", files) == ["shop", "shop.money", "shop.names"]


def test_roots_are_searched_in_order(names: Names) -> None:
    """The first root that has a package wins; a lone module and one below src are found too."""
    files = {
        "src/shop/__init__.py": "import first",
        "shop/__init__.py": "import second",
        "src/first.py": "",
    }
    assert names("import shop", {**files, "second.py": ""}, roots=("src", ".")) == [
        "first",
        "shop",
    ]


def test_namespace_packages_are_joined_over_roots(names: Names) -> None:
    """Directories without __init__.py: their modules count, wherever they are."""
    files = {"src/group/one.py": "import group.deep.two", "group/deep/two.py": ""}
    assert names("from group import one", files, roots=("src", ".")) == [
        "group.deep.two",
        "group.one",
    ]


def test_namespace_packages_shared_with_installed_ones_count_in_part(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a namespace that installed packages extend, the project's own modules count."""
    installed = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.syspath_prepend(str(tmp_path))
    files = {"site-packages/group/other.py": "import group.one", "group/one.py": ""}
    assert names("import group.one, group.other", files) == ["group.one"]


def test_a_directory_named_like_an_installed_package_is_not_that_package(names: Names) -> None:
    """`alembic init alembic` makes a directory that imports never mean; so it is for any installed package."""
    files = {
        "alembic/op.py": "",
        "alembic/__init__.py": "",
        "psycopg/sql.py": "",
        "json/tool.py": "",
        "sqlalchemy/orm.py": "",
    }
    revision = (
        "from alembic import op\nimport psycopg.sql\nimport json.tool\nimport sqlalchemy.orm"
    )
    assert names(revision, files) == []


def test_a_project_may_shadow_the_standard_library(names: Names) -> None:
    """A root comes before the standard library on sys.path."""
    assert names("import calendar", {"calendar.py": ""}) == ["calendar"]


def test_installed_packages_in_the_project_directory_are_not_its_own(names: Names) -> None:
    """A virtual environment in the checkout stays out, even when it is an import root."""
    files = {
        ".venv/lib/site-packages/vendored/__init__.py": "",
        ".venv/lib/dist-packages/other.py": "",
    }
    roots = (".", ".venv/lib/site-packages", ".venv/lib/dist-packages")
    assert names("import vendored, other", files, roots=roots) == []


def test_sys_path_and_editable_installations_are_looked_at(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PYTHONPATH's directories, and packages that only an import hook knows, as editable installations make them."""
    other = tmp_path / "other"
    (other / "hooked").mkdir(parents=True)
    (other / "hooked" / "__init__.py").write_text("from . import inner")
    (other / "hooked" / "inner.py").touch()
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "onpath.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "path"))

    from importlib.util import spec_from_file_location

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> object:
            return (
                spec_from_file_location(name, other / "hooked" / "__init__.py")
                if name == "hooked"
                else None
            )

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert names("import hooked, onpath", {}, roots=()) == ["hooked", "hooked.inner", "onpath"]


def test_a_directory_that_packages_were_installed_into_is_not_the_projects(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install --target`, zipapps and build systems put them anywhere on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path / "target"))
    files = {
        "target/vendored/__init__.py": "",
        "target/vendored-1.0.dist-info/METADATA": "",
        "target/lone.py": "",
    }
    assert names("import vendored, lone", files) == []


MODULES = ["one", "two", "pack", "pack.inner", "pack.deep", "pack.deep.leaf"]
PATHS = {
    "one": "one.py",
    "two": "two.py",
    "pack": "pack/__init__.py",
    "pack.inner": "pack/inner.py",
    "pack.deep": "pack/deep/__init__.py",
    "pack.deep.leaf": "pack/deep/leaf.py",
}
STATEMENTS = [
    *(f"import {name}" for name in MODULES),
    "from pack import inner",
    "from pack import deep, inner",
    "from pack.deep import leaf",
    "from pack.deep.leaf import __name__ as n",
]
RELATIVE = {
    "pack": ["from . import inner", "from .deep import leaf"],
    "pack.inner": ["from .deep import leaf", "from . import deep"],
    "pack.deep": ["from .. import inner", "from . import leaf"],
    "pack.deep.leaf": ["from ..inner import __name__ as n", "from ... import x"],
}
IMPORTED = """
import json, runpy, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
runpy.run_path(sys.argv[1] + "/revision.py")
names = json.loads(sys.argv[2])
print(json.dumps(sorted(name for name in names if name in sys.modules)))
"""


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_nothing_that_python_loads_is_missed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever modules import from each other, in whatever way: what running loads is what was found."""
    rootdir = tmp_path_factory.mktemp("project")
    for name in MODULES:
        ways = st.lists(st.sampled_from([*STATEMENTS, *RELATIVE.get(name, [])]), max_size=2)
        lines = (
            f"try:\n    {statement}\nexcept ImportError:\n    pass\n"
            for statement in data.draw(ways, label=name)
        )
        path = rootdir / PATHS[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
    script = rootdir / "revision.py"
    script.write_text(
        "\n".join(
            data.draw(st.lists(st.sampled_from(STATEMENTS), max_size=2), label="revision")
        )
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", IMPORTED, str(rootdir), json.dumps(MODULES)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    found = {
        module.name for module in closure([script], import_roots=[rootdir], rootdir=rootdir)
    }

    assert found >= set(json.loads(done.stdout))
    assert found <= set(MODULES)


@pytest.mark.parametrize(
    ("name", "package", "expected"),
    [
        ("a.b", "x", "a.b"),
        (".", "x.y", "x.y"),
        (".a", "x.y", "x.y.a"),
        ("..a", "x.y", "x.a"),
        ("..", "x.y", "x"),
        ("...a", "x.y", ""),
        (".a", "", ""),
    ],
)
def test_relative_names_are_resolved(name: str, package: str, expected: str) -> None:
    """One dot is the package itself, each further one its parent; beyond the top is nowhere."""
    assert absolute(name, package) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CREATE EXTENSION pgcrypto", {"pgcrypto"}),
        ('create  extension\n if not exists "uuid-ossp" with schema public;', {"uuid-ossp"}),
        (
            "CREATE EXTENSION IF NOT EXISTS PG_Trgm; CREATE EXTENSION hstore CASCADE;",
            {"pg_trgm", "hstore"},
        ),
        ("DO $$ BEGIN EXECUTE 'CREATE EXTENSION citext'; END $$", {"citext"}),
        (
            "-- CREATE EXTENSION one\nSELECT 1 /* CREATE EXTENSION\n two */; CREATE EXTENSION three",
            {"three"},
        ),
        (
            "create collation ci (provider = icu, locale = 'und', deterministic = false)",
            {"ICU"},
        ),
        ('create table t (a text collate "de-x-icu"); -- provider = icu', {"ICU"}),
        ("/* provider = icu */ create collation c (provider = libc, locale = 'icu')", set()),
        ('CREATE EXTENSION "{name}"; CREATE EXTENSION %s; CREATE EXTENSION {}', set()),
        ("DROP EXTENSION x; ALTER EXTENSION y UPDATE; RECREATE EXTENSION z", set()),
        ("create extension if it is missing, create extensions for all", set()),
    ],
)
def test_extensions_are_read_from_sql(text: str, expected: set[str]) -> None:
    """Any case and spacing, quoted names as they are, comments and prose left out."""
    assert extensions_in_sql(text) == expected
    assert set(read_contents("x.sql", text.encode()).extensions) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('op.execute("CREATE EXTENSION IF NOT EXISTS pgcrypto")', {"pgcrypto"}),
        ('op.execute("CREATE " "EXTENSION " \'"uuid-ossp"\')', {"uuid-ossp"}),
        ('op.execute(f"CREATE EXTENSION hstore SCHEMA {schema}")', {"hstore"}),
        (
            'op.execute(f"CREATE EXTENSION {name}")\nop.execute(f\'CREATE EXTENSION "{name}"\')',
            set(),
        ),
        ('op.execute(f"CREATE EXTENSION pg_{name}")', set()),
        ('# op.execute("CREATE EXTENSION one")\n"""CREATE EXTENSION two"""', set()),
        (
            'def upgrade():\n    """CREATE EXTENSION one"""\n    execute("""\n  CREATE EXTENSION\n  citext""")',
            {"citext"},
        ),
        ('execute("CREATE EXTENSION pgcrypto"', set()),
        (r'execute("\d CREATE EXTENSION pgcrypto")', {"pgcrypto"}),
    ],
)
def test_extensions_are_read_from_strings_in_python(source: str, expected: set[str]) -> None:
    """String constants and the known parts of f-strings; comments, docstrings and computed names are left out."""
    assert set(read_contents("x.py", source.encode()).extensions) == expected
