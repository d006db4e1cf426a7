"""What a project's files say of its database: read without running them, for the settings that it needs."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clonedb.project.find import import_roots_of

__all__ = ["Survey", "files_below", "holds_url", "modules_of", "required_drivers", "survey"]

# DATABASE_URL, POSTGRES_DSN, sqlalchemy_database_uri
_VARIABLE = re.compile(
    r"(?i)\w*(?:database|postgres|postgresql|pg|db|sqlalchemy)\w*_?(?:url|uri|dsn)"
)
_READERS = frozenset({"getenv", "get", "env", "config", "str", "__getitem__", "db", "db_url"})
_DRIVERS = ("asyncpg", "psycopg", "psycopg2")
_URL = re.compile(r"postgresql\+(asyncpg|psycopg2?|psycopg_async)://")
_LEFT_OUT = frozenset(
    {"node_modules", "site-packages", "build", "dist", "__pycache__", "versions"}
)
_TESTS = frozenset({"tests", "test", "conftest.py"})
_MOST_FILES = 5000  # of a checkout that has data in it, too


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found: the variables that hold a database's URL (the likeliest first), the
    drivers that are named (so too), whether there is an asynchronous engine, the Alembic
    configurations below the directory, and the directories that have an env.py of Alembic's.
    """

    variables: tuple[str, ...]
    drivers: tuple[str, ...]
    asynchronous: bool
    configurations: tuple[str, ...]
    environments: tuple[str, ...]


def survey(rootdir: Path) -> Survey:
    """Look at the Python files of a project, its pyproject.toml and requirements, and its Alembic configurations."""
    variables: Counter[str] = Counter()
    # a requirement says more than a URL in an alembic.ini, and less than one in code
    drivers: Counter[str] = Counter(
        name for name in required_drivers(rootdir) for _ in range(5)
    )
    configurations, environments, asynchronous = [], [], False
    for path in files_below(rootdir):
        if path.name == "alembic.ini":
            configurations.append(path.relative_to(rootdir).as_posix())
        text = path.read_text(encoding="utf-8", errors="replace")

        # what migrates need not be what the application runs on
        weight = 1 if path.name == "alembic.ini" else 10
        drivers.update(
            match.removesuffix("_async") for match in _URL.findall(text) for _ in range(weight)
        )
        if path.suffix != ".py":
            continue
        if path.name == "env.py" and "run_migrations" in text:
            environments.append(path.parent.relative_to(rootdir).as_posix())
        asynchronous = (
            asynchronous or "create_async_engine" in text or "async_engine_from_config" in text
        )
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue

        # what tests read may be the tests' own
        weight = (
            1 if path.name == "conftest.py" or "test" in path.parts[len(rootdir.parts)] else 10
        )
        for name in _variables(tree):
            variables[name] += weight

    return Survey(
        variables=tuple(name for name, _ in variables.most_common()),
        drivers=tuple(name for name, _ in drivers.most_common()),
        asynchronous=asynchronous,
        configurations=tuple(sorted(configurations, key=_depth)),
        environments=tuple(sorted(environments, key=_depth)),
    )


def holds_url(name: str) -> bool:
    """Whether a variable of this name is likely to hold a database's URL."""
    return _VARIABLE.fullmatch(name) is not None


def _depth(name: str) -> tuple[int, str]:
    return name.count("/"), name


def files_below(rootdir: Path) -> Iterator[Path]:
    """A project's Python files, and others that may name its database; none of an environment or a build."""
    seen = 0
    for directory, below, names in os.walk(rootdir):
        below[:] = sorted(
            name
            for name in below
            if name not in _LEFT_OUT
            and not name.startswith(".")
            # pyvenv.cfg marks a virtual environment of any name
            and not Path(directory, name, "pyvenv.cfg").exists()
        )
        for name in sorted(names):
            wanted = name.endswith(".py") or name in (
                "alembic.ini",
                ".env",
                ".env.example",
                "pytest.ini",
            )
            # no FIFO, and no link that leads nowhere: an editor's lock is one (`.#models.py`)
            if wanted and Path(directory, name).is_file():
                seen += 1
                if seen > _MOST_FILES:
                    return
                yield Path(directory, name)


def modules_of(rootdir: Path) -> Iterator[tuple[str, Path]]:
    """A project's modules that are no tests: the dotted name of each, and its file."""
    # the deepest root first: below src/ a module's name starts there
    roots = sorted(import_roots_of(rootdir), key=lambda root: -len(root.parts))
    for path in files_below(rootdir):
        parts = path.relative_to(rootdir).parts
        if path.suffix != ".py" or _TESTS & set(parts) or path.name.startswith("test_"):
            continue
        root = next((root for root in roots if path.is_relative_to(root)), rootdir)
        names = path.relative_to(root).with_suffix("").parts
        names = names[:-1] if names[-1] == "__init__" else names
        if names and all(name.isidentifier() for name in names):
            yield ".".join(names), path


def required_drivers(rootdir: Path) -> Iterator[str]:
    """The drivers among the project's requirements."""
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(rootdir.glob("requirements*.txt"))
        if path.is_file()
    ]
    try:
        document = tomllib.loads((rootdir / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        document = {}

    texts.extend(_strings(document))
    for text in texts:
        for name in _DRIVERS:
            # a line of requirements, with a version, extras or a marker behind it
            if re.search(rf"(?m)^\s*{name}(?:-binary)?\s*(?:$|[\[<>=!~;@ ])", text):
                yield name


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _variables(tree: ast.Module) -> Iterator[str]:
    """Names that look like a database URL's, where a variable is read, or a settings class declares one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
            yield from _named(node.slice)
        elif isinstance(node, ast.Call) and node.args:
            called = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            if called in _READERS:
                yield from _named(node.args[0])
        elif isinstance(node, ast.ClassDef) and any(
            "Settings" in ast.unparse(base) for base in node.bases
        ):
            # pydantic's BaseSettings, and classes derived from one called so
            yield from _fields(node)


def _named(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and holds_url(node.value):
        yield node.value


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """The variables of pydantic's settings: a field's name in capitals, behind `env_prefix`, or its alias."""
    match = re.search(r"""env_prefix\s*=\s*['"]([^'"]*)""", ast.unparse(node))
    prefix = match[1] if match else ""
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            alias = re.search(
                r"""(?:validation_alias|alias|env)\s*=\s*['"](\w+)""", ast.unparse(field)
            )
            if alias:
                yield from _named(ast.Constant(alias[1]))
            elif holds_url(field.target.id):
                yield (prefix + field.target.id).upper()
