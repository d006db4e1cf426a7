"""What makes a project's schema when nothing says so: found in its files, without running them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from clonedb.errors import ConfigError
from clonedb.project.config_files import load_ini
from clonedb.project.model_survey import survey_models
from clonedb.project.survey import modules_of

if TYPE_CHECKING:
    from clonedb.settings.config import Config
    from clonedb.settings.typed import Settings

__all__ = ["FOUND", "as_lines", "detect"]

FOUND = "found in the project"
"""The source of a setting that nobody wrote."""

_MARKS = (  # of a project's directory
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "pytest.ini",
    "tox.ini",
    "conftest.py",
    "requirements.txt",
    "manage.py",
    "yoyo.ini",
    ".git",
)
_SCHEMAS = ("schema.sql", "db/schema.sql", "sql/schema.sql", "database/schema.sql")


def detect(config: Config) -> list[Settings]:
    """The settings that may say what makes the schema, of the likeliest kind alone; one if there is no doubt.

    Migrations come first: Alembic's below the project's directory, then Django's and yoyo's. Then
    come models, and last an SQL file.
    """
    rootdir = config.rootdir
    if not any((rootdir / name).exists() for name in _MARKS):
        return []  # somebody's home directory may be large
    return (
        _migrations(rootdir)
        or _django(rootdir)
        or _yoyo(rootdir)
        or _models(rootdir)
        or _schema(rootdir)
    )


def as_lines(settings: Settings) -> list[str]:
    """Settings as lines of pyproject.toml, from `[tool.clonedb]` on."""
    lines, tables = list[str](), list[str]()
    for name, value in settings.items():
        if isinstance(value, dict):
            values = [f"{key} = {json.dumps(each)}" for key, each in value.items()]
            tables += ["", f"[tool.clonedb.{name}]", *values]
        elif name == "metadata" and isinstance(value, (list, tuple)) and len(value) == 1:
            # one name and a command are written as text, which a person would do
            lines.append(f"{name} = {json.dumps(value[0])}")
        elif name == "migrate" and isinstance(value, (list, tuple)):
            lines.append(f"{name} = {json.dumps(shlex.join(map(str, value)))}")
        else:
            lines.append(f"{name} = {json.dumps(value)}")
    return [*lines, *tables]


def _migrations(rootdir: Path) -> list[Settings]:
    """Of Alembic, in a directory that has all of it: Flask-Migrate and advanced-alchemy make such."""
    found = sorted(
        ini.relative_to(rootdir)
        for pattern in ("*/alembic.ini", "*/*/alembic.ini")
        for ini in rootdir.glob(pattern)
        if ini.with_name("env.py").is_file()
    )
    return [
        {
            "alembic_ini": ini.as_posix(),
            "alembic": {"script_location": ini.parent.as_posix()},
        }
        for ini in found
        if not ini.parts[0].startswith(".")
    ]


def _django(rootdir: Path) -> list[Settings]:
    program = rootdir / "manage.py"
    if not program.is_file() or b"DJANGO_SETTINGS_MODULE" not in program.read_bytes():
        return []
    return [{"migrate": "python manage.py migrate"}]


def _yoyo(rootdir: Path) -> list[Settings]:
    """As `yoyo init` sets it up: yoyo.ini names the directories with the steps."""
    try:
        ini = load_ini(rootdir / "yoyo.ini")
    except ConfigError:
        return []
    sources = ini.get("DEFAULT", "sources", raw=True, fallback="").split()
    steps = [f"{source}/*" for source in sources if (rootdir / source).is_dir()]
    return [{"migrate": "yoyo apply --batch", "watch": ["yoyo.ini", *steps]}] if steps else []


def _models(rootdir: Path) -> list[Settings]:
    return [{"metadata": list(one.names)} for one in survey_models(modules_of(rootdir))]


def _schema(rootdir: Path) -> list[Settings]:
    return [{"schema": [name]} for name in _SCHEMAS if (rootdir / name).is_file()]
