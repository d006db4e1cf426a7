"""What a peer's conftest is given: where the server is, and the project's migrations."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

__all__ = ["Given"]

_VARIABLE = "BENCHMARK_GIVEN"


@dataclass(frozen=True, slots=True)
class Given:
    """A server, reached by a socket in the directory `host` as `postgres`; by TCP, at `address` if it has one."""

    host: str
    ini: str
    spent: str
    """The file for what the tests paid."""
    address: str = ""
    password: str = ""

    @classmethod
    def here(cls) -> Self:
        """What this process was given."""
        return cls(**json.loads(os.environ[_VARIABLE]))

    def variables(self) -> dict[str, str]:
        """The environment that hands it to a process: no password appears in what it is started with."""
        return {_VARIABLE: json.dumps(asdict(self))}

    @property
    def worker(self) -> str:
        """The name of xdist's worker, or "main"."""
        return os.environ.get("PYTEST_XDIST_WORKER", "main")

    @property
    def directory(self) -> Path:
        """A directory that stays from run to run."""
        return Path(self.spent).parent

    def dsn(self, database: str) -> str:
        """A database of the server, for libpq."""
        return f"postgresql://postgres@/{database}?host={self.host}"

    def url(self, database: str) -> str:
        """A database of the server, for SQLAlchemy."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.host}"

    def migrate(self, dsn: str) -> None:
        """Run the project's migrations on a database named as libpq does."""
        from alembic import command
        from alembic.config import Config
        from psycopg.conninfo import conninfo_to_dict
        from sqlalchemy import URL

        found = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
        url = URL.create(
            "postgresql+psycopg",
            username=found.get("user"),
            password=found.get("password"),
            database=found["dbname"],
            query={
                key: value
                for key, value in found.items()
                if key not in {"user", "password", "dbname"}
            },
        )
        config = Config(self.ini)
        config.set_main_option(
            "sqlalchemy.url", url.render_as_string(hide_password=False).replace("%", "%%")
        )
        command.upgrade(config, "heads")
