"""The walls between the modules: which may import which, how large they are, and what none of them holds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module or package imports from the rows above its own, and a package also from itself.
LAYERS = (
    "errors originals",
    "file_errors names private_files progress quantities url",
    "settings",
    "embedded",
    "postgres",
    "project sessions",
    "routing",
    "migrate",
    "templates",
    "archive clones",
    "rewind",
    "isolation run_state",
    "supply transfer",
    "api",
    "revisions",
    "service",
    "cli client pytest_plugin",
    "__main__",
)
APART = ("demo",)  # the sample shop is a user of the package, and no part of it
HEAVY = (
    "alembic",
    "click",
    "filelock",
    "importlib.metadata",
    "platformdirs",
    "psycopg",
    "psycopg2",
    "rich",
    "sqlalchemy",
)
# run, never imported
PROGRAMS = (
    "clonedb.__main__",
    "clonedb.embedded.keeper",
    "clonedb.migrate.inside.command",
    "clonedb.migrate.inside.program",
    "clonedb.migrate.inside.startup.sitecustomize",
    "clonedb.project.alembic_reader",
)
LINES = 400


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: where, and whether importing the importer imports it at once."""

    target: str
    line: int
    at_once: bool


@cache
def modules() -> tuple[tuple[str, Path], ...]:
    """The dotted name and the file of every module of the package, the sample shop's left out."""
    found = []
    for path in sorted((ROOT / "clonedb").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] not in APART:
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return tuple(found)


@cache
def tree(path: Path) -> ast.Module:
    """A file, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(node: ast.AST, *, at_once: bool = True) -> Iterator[Import]:
    """What is imported below a node, in functions too; imports for type checkers only do not count."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            yield from (
                Import(f"{module}.{alias.name}", child.lineno, at_once) for alias in child.names
            )
        elif isinstance(child, ast.If) and ast.unparse(child.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            yield from imports(ast.Module(child.orelse, type_ignores=[]), at_once=at_once)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(child, at_once=at_once and not inside)


@cache
def edges(name: str) -> tuple[Import, ...]:
    """The imports of one module, each with the module that it really loads: `from a.b import c` may mean a.b or a.b.c."""
    known = dict(modules())
    return tuple(
        found
        if found.target in known or not found.target.startswith("clonedb")
        else Import(found.target.rpartition(".")[0], found.line, found.at_once)
        for found in imports(tree(known[name]))
    )


def unit(name: str) -> str:
    """The module or package right below clonedb that a module belongs to; '' is clonedb/__init__.py."""
    return name.partition(".")[2].partition(".")[0]


def is_of(target: str, package: str) -> bool:
    """Whether an import loads a package or something in it."""
    return target == package or target.startswith(package + ".")


def layer(name: str) -> int:
    """The row of the table that a module stands in; clonedb/__init__.py, which names everybody, is above them all."""
    return next(
        (row for row, names in enumerate(LAYERS) if unit(name) in names.split()), len(LAYERS)
    )


def place(name: str, found: Import) -> str:
    """An import as a person looks for it."""
    return f"{dict(modules())[name].relative_to(ROOT)}:{found.line} imports {found.target}"


def test_imports_are_seen_wherever_they_stand() -> None:
    """In functions, classes and conditions; but what only type checkers import is not imported."""
    source = (
        "import a\nif TYPE_CHECKING:\n    import never\nelse:\n    import b\ntry:\n    from c import d\nexcept ImportError:\n"
        "    pass\nclass E:\n    import f\n    def g(self):\n        import h.i\n        from . import j\n"
    )
    found = [(one.target, one.at_once) for one in imports(ast.parse(source))]
    assert found == [
        ("a", True),
        ("b", True),
        ("c.d", True),
        ("f", True),
        ("h.i", False),
        ("..j", False),
    ]


def test_every_module_has_its_layer() -> None:
    """A new module gets a place in the table, once; one that is gone leaves it."""
    listed = " ".join(LAYERS).split()
    assert sorted(listed) == sorted({unit(name) for name, _ in modules()} - {""})


def test_imports_go_down() -> None:
    """No import goes to the same layer or one above, except within a package."""
    wrong = [
        place(name, found)
        for name, _ in modules()
        for found in edges(name)
        if is_of(found.target, "clonedb")
        and unit(found.target) != unit(name)
        and layer(found.target) >= layer(name)
    ]
    assert wrong == []


def test_what_runs_in_the_migration_interpreter_knows_nothing_of_the_process_that_started_it() -> (
    None
):
    """It is loaded with the project's own code: what it does not import cannot be in the way there."""
    wrong = [
        place(name, found)
        for name, _ in modules()
        for found in edges(name)
        if is_of(name, "clonedb.migrate.inside")
        and is_of(found.target, "clonedb")
        and not is_of(found.target, "clonedb.migrate.inside")
        and unit(found.target) not in ("errors", "originals", "postgres", "url")
    ]
    assert wrong == []


def test_imports_are_absolute() -> None:
    """One way to write an import, which one search finds."""
    assert [
        place(name, found)
        for name, _ in modules()
        for found in edges(name)
        if found.target.startswith(".")
    ] == []


def test_there_are_no_cycles() -> None:
    """Not within a package either, and not by imports that wait in a function."""
    known = dict(modules())
    done: dict[str, bool] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for found in edges(name):
                if found.target in known:
                    visit(found.target, (*above, name))
            done[name] = True

    for name in known:
        visit(name, ())


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("pytest", {"pytest_plugin"}),
        ("_pytest", set()),
        ("xdist", {"pytest_plugin"}),
        ("click", {"cli"}),
        ("rich", {"cli"}),
        ("httptools", {"service"}),
        ("jinja2", {"service"}),
        ("prometheus_client", {"service"}),
        ("starlette", {"service"}),
        ("uvicorn", {"service"}),
        ("uvloop", {"service"}),
        ("clonedb.service", {"cli", "service"}),
        ("clonedb.demo", set()),
        ("clonedb.cli", {"cli", "__main__"}),
        ("clonedb.pytest_plugin", {"pytest_plugin"}),
    ],
)
def test_package_is_used_in_one_place(package: str, homes: set[str]) -> None:
    """Only the translators know pytest, click, rich and what speaks HTTP, and neither knows the other."""
    wrong = [
        place(name, found)
        for name, _ in modules()
        for found in edges(name)
        if unit(name) not in homes and is_of(found.target, package)
    ]
    assert wrong == []


def test_the_service_does_not_know_how_it_is_asked() -> None:
    """What lends databases knows nothing of HTTP; `serve` alone puts both together."""
    wrong = [
        place(name, found)
        for name, _ in modules()
        for found in edges(name)
        if is_of(found.target, "clonedb.service.http")
        and not is_of(name, "clonedb.service.http")
        and name != "clonedb.service.serve"
    ]
    assert wrong == []
    web = ("httptools", "jinja2", "prometheus_client", "starlette", "uvicorn", "uvloop")
    users = {
        name
        for name, _ in modules()
        for found in edges(name)
        if any(is_of(found.target, package) for package in web)
    }
    assert {name for name in users if not is_of(name, "clonedb.service.http")} == {
        "clonedb.service.serve"
    }


@pytest.mark.parametrize("start", ["clonedb", "clonedb.pytest_plugin"])
def test_nothing_heavy_is_imported_at_once(start: str) -> None:
    """Every pytest run of the environment pays for what these import: sqlalchemy is 130 ms, alembic 440."""
    known, reached, wrong = dict(modules()), set(), []
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in known and name not in reached:
            reached.add(name)
            waiting += [
                name.rpartition(".")[0],
                *(found.target for found in edges(name) if found.at_once),
            ]
            wrong += [
                place(name, found)
                for found in edges(name)
                if found.at_once and any(is_of(found.target, package) for package in HEAVY)
            ]
    assert wrong == []
    assert start in reached


def _python_files() -> list[Path]:
    return [
        path
        for top in ("clonedb", "tests", "benchmarks")
        for path in sorted((ROOT / top).rglob("*.py"))
    ]


def test_files_are_small() -> None:
    """A file that grows past this has two owners in it: find the wall."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in _python_files()
    }
    assert {path: lines for path, lines in lengths.items() if lines > LINES} == {}


def test_nothing_is_left_to_be_done() -> None:
    """What is not finished is an issue, and no comment."""
    word = re.compile("TO" + "DO|FIX" + "ME|XX" + "X")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in _python_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if word.search(line)
    ]
    assert wrong == []


_MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_CONSTRUCTORS = frozenset(
    {
        "list",
        "dict",
        "set",
        "bytearray",
        "defaultdict",
        "deque",
        "Counter",
        "OrderedDict",
        "ContextVar",
    }
)


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.BinOp):
        return _is_mutable(value.left)
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in _CONSTRUCTORS
    return isinstance(value, _MUTABLE)


def _mutable_state(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and _is_mutable(statement.value):
            targets = (
                statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            )
            if [ast.unparse(target) for target in targets] != ["__all__"]:
                yield statement
        elif isinstance(statement, (ast.If, ast.Try, ast.With, ast.ClassDef)):
            yield from _mutable_state(statement.body)
    yield from (
        found for node in body for found in ast.walk(node) if isinstance(found, ast.Global)
    )


def test_no_module_holds_state() -> None:
    """Two runs in one process, or a test and the run that tests it, share nothing by accident."""
    wrong = [
        f"{path.relative_to(ROOT)}:{found.lineno}: {ast.unparse(found)[:60]}"
        for path in _python_files()
        if path.is_relative_to(ROOT / "clonedb")
        for found in _mutable_state(tree(path).body)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", [name for name, _ in modules()])
def test_module_says_what_it_is_for(name: str) -> None:
    """Each has a docstring of its own, and names what others may use."""
    module = tree(dict(modules())[name])
    assert ast.get_docstring(module)
    names = [
        ast.unparse(statement.targets[0])
        for statement in module.body
        if isinstance(statement, ast.Assign)
    ]
    assert "__all__" in names or name in PROGRAMS or len(module.body) == 1
