"""A project with every kind of input, and what a change does to its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clonedb.migrate.recipes import find_recipe
from clonedb.project.fingerprint import Fingerprint, ServerFacts, differences, fingerprint
from clonedb.settings.config import Config

SERVER = ServerFacts(major=18, encoding="UTF8", locale="C.UTF-8", role="")
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
    settings: dict[str, Any]

    @property
    def config(self) -> Config:
        return Config(rootdir=self.rootdir).replace("test", **self.settings)

    def fingerprint(
        self, *, server: ServerFacts = SERVER, index_dir: Path | None = None
    ) -> Fingerprint:
        return fingerprint(self.config, find_recipe(self.config).inputs(index_dir), server)

    def write(self, name: str, text: str) -> None:
        path = self.rootdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def append(self, name: str, text: str) -> None:
        self.write(name, (self.rootdir / name).read_text() + text)


Change = Callable[[Sample], object]
Shown = tuple[str, str, str]


def changed(sample: Sample, change: Change) -> set[Shown]:
    """What a change does to the inputs; the digest changes exactly when they do."""
    before = sample.fingerprint()
    change(sample)
    after = sample.fingerprint()
    found: set[Shown] = {
        (d.change, d.kind, d.name) for d in differences(before.abbreviated(), after)
    }
    assert bool(found) == (before.digest != after.digest)
    return found


def edit(name: str) -> Change:
    return lambda sample: sample.append(name, "\n# edited\n")


def setting(**settings: Any) -> Change:
    return lambda sample: sample.settings.update(settings)


def rewrite(old: str, new: str) -> Change:
    def change(sample: Sample) -> None:
        text = (sample.rootdir / "alembic.ini").read_text()
        assert old in text
        sample.write("alembic.ini", text.replace(old, new))

    return change
