"""Every public name in use, for type checkers alone: it is never run.

A line with an ignored error must have that error: mypy and pyright refuse an ignore that is not needed.
"""

from __future__ import annotations

from collections.abc import Callable

from psycopg import Connection
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, sessionmaker

import clonedb
import clonedb as public


def use(*values: object) -> None:
    """Take values, so that none is assigned for nothing."""


VERSION: str = clonedb.__version__

ERRORS: tuple[type[clonedb.CloneDBError], ...] = (
    clonedb.BoundsError,
    clonedb.BuildError,
    clonedb.ConfigError,
    clonedb.EndedTestError,
    clonedb.LockTimeoutError,
    clonedb.MigrationError,
    clonedb.MissingExtensionError,
    clonedb.NoMigrationsError,
    clonedb.NotOursError,
    clonedb.PermissionDeniedError,
    clonedb.RewindError,
    clonedb.RoutingError,
    clonedb.SeedError,
    clonedb.ServerError,
    clonedb.ServerNotFoundError,
    clonedb.TemplateInUseError,
    clonedb.VerificationError,
)
WARNINGS: tuple[type[UserWarning], ...] = (
    clonedb.LeakedConnectionWarning,
    clonedb.ReadonlyWarning,
    clonedb.ServerChangedWarning,
)


def a_template() -> None:
    """A template, its clones and what they hand out."""
    reports: clonedb.TemplateSettings = {"base": "default", "seed": ["reports.sql"]}
    settings: clonedb.Settings = {
        "target": "heads",
        "x": ("a=b",),
        "templates": {"reports": reports},
    }
    with (
        clonedb.template("shop", lock_timeout=5, isolation="clone") as template,
        template.clone() as clone,
    ):
        texts: tuple[str, ...] = (
            template.name,
            template.fingerprint,
            clone.name,
            clone.url,
            clone.dsn,
            *template.heads,
        )
        base: clonedb.Template | None = template.base
        connection: Connection[object] = clone.connect(autocommit=True)
        engine: Engine = clone.engine(echo=True)
        with template.database() as rewound, template.database(isolation="rollback") as held:
            names: tuple[str, str] = (rewound.name, held.name)
            sessions: sessionmaker[Session] = held.sessionmaker()
            lent: tuple[Connection[object], Engine] = (rewound.connect(), rewound.engine())
    use(texts, base, connection, engine, names, sessions, lent, clonedb.template(**settings))


shop = clonedb.fixture(scope="module", seed="tests/shop.sql")
several = clonedb.fixture(
    name="clonedb", isolation="truncate", template="reports", seed=["a.sql", use], autouse=True
)


def a_test(
    clonedb: public.Database,
    clonedb_config: public.Config,
    clonedb_factory: Callable[[], public.Clone],
    clonedb_template: public.Template,
) -> public.Config:
    """What fixtures give, by their types."""
    clonedb_factory().drop()
    use(
        clonedb.name,
        clonedb.url,
        clonedb.dsn,
        clonedb_template.name,
        clonedb_config.source("url"),
        clonedb_config.shown("url"),
    )
    return clonedb_config.replace("conftest.py", url="postgresql://localhost", keep="all")


def mistakes(config: clonedb.Config) -> None:
    """Each is found before the program runs."""
    clonedb.template(tagret="heads")  # type: ignore[call-arg]
    clonedb.template(isolation="rolback")  # type: ignore[arg-type]
    clonedb.template(seed="shop.sql")  # type: ignore[arg-type]
    clonedb.template(keep_count="3")  # type: ignore[arg-type]
    config.replace("conftest.py", tagret="heads")  # type: ignore[call-arg]
    clonedb.fixture(isolation="rolback")  # type: ignore[arg-type]
    clonedb.fixture(scope="modul")  # type: ignore[arg-type]
    clonedb.fixture(tempate="reports")  # type: ignore[call-arg]
    clonedb.templat()  # type: ignore[attr-defined]
    named: clonedb.TemplateSettings = {"sede": []}  # type: ignore[typeddict-unknown-key]
    use(named)
