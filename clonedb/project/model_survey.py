"""Where a project's SQLAlchemy or SQLModel models are, read from its files without running them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Models", "survey_models"]

_SQLMODEL = "sqlmodel.SQLModel"
_METADATA, _TABLE = "sqlalchemy.MetaData", "sqlalchemy.Table"
_DECLARATIVE = frozenset(
    {"sqlalchemy.orm.DeclarativeBase", "sqlalchemy.orm.DeclarativeBaseNoMeta"}
)
_MAKERS = frozenset(
    {
        _METADATA,
        "sqlalchemy.orm.declarative_base",
        "sqlalchemy.ext.declarative.declarative_base",
        "flask_sqlalchemy.SQLAlchemy",
    }
)
# a table's name or columns in a class
_COLUMNS = re.compile(r"__table(?:name)?__|\bMapped\[|\b(?:mapped_column|Column)\(")
_WORTH_PARSING = re.compile(
    rb"sqlalchemy|sqlmodel|__tablename__|\bimport\b.*\b(?:Base|db)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Models:
    """One MetaData: `base` is where it comes from, and `names` are what the setting `metadata` takes for its tables."""

    base: str
    names: tuple[str, ...]


@dataclass(slots=True)
class _Class:
    bases: list[str]
    metadata: str | None
    has_table: bool


@dataclass(slots=True)
class _Module:
    """What a module imports and defines; names in it are as it writes them, dotted."""

    name: str
    package: str
    imported: dict[str, str] = field(default_factory=dict)
    classes: dict[str, _Class] = field(default_factory=dict)
    made: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    tables: list[str] = field(
        default_factory=list
    )  # what each Table(...) is given as its MetaData

    def resolve(self, written: str) -> str:
        """The dotted name of what a name in this module means."""
        first, dot, rest = written.partition(".")
        return f"{self.imported.get(first, f'{self.name}.{first}')}{dot}{rest}"

    def read(self, tree: ast.Module) -> None:
        """Take the definitions of the module; those in functions are not what another one imports."""
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imported.update(self._imports(node))
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = _class(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
                node.value, ast.Call
            ):
                self._take_call(node, node.value)

    def _imports(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
        for alias in node.names:
            if isinstance(node, ast.Import):
                # `import a.b` binds `a`, `import a.b as c` binds `c` to `a.b`
                top = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
            else:
                # one dot is the package itself (`[:None]`), each further one a level above
                above = self.package.split(".")[: 1 - node.level or None] if node.level else []
                module = ".".join([*above, *([node.module] if node.module else [])])
                yield alias.asname or alias.name, f"{module}.{alias.name}"

    def _take_call(self, node: ast.Assign | ast.AnnAssign, call: ast.Call) -> None:
        maker = self.resolve(ast.unparse(call.func))
        if maker == _TABLE and len(call.args) > 1:
            self.tables.append(ast.unparse(call.args[1]))
        elif maker in _MAKERS:
            given = [
                ast.unparse(word.value) for word in call.keywords if word.arg == "metadata"
            ]
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self.made[ast.unparse(target)] = maker, given[0] if given else None


def _class(node: ast.ClassDef) -> _Class:
    assigned = {
        ast.unparse(target): ast.unparse(line.value)
        for line in node.body
        if isinstance(line, ast.Assign)
        for target in line.targets
    }
    is_table = any(word.arg == "table" for word in node.keywords)
    has_columns = _COLUMNS.search(ast.unparse(node)) is not None
    # an abstract class gives its columns to those derived from it
    return _Class(
        bases=[ast.unparse(base) for base in node.bases],
        metadata=assigned.get("metadata"),
        has_table=is_table or (has_columns and "__abstract__" not in assigned),
    )


def survey_models(files: Iterable[tuple[str, Path]]) -> list[Models]:
    """Each MetaData that has tables in some modules, which come as dotted name and file; ordered by its base."""
    modules = {}
    for name, path in files:
        data = path.read_bytes()
        # parsing costs far more than a search
        if not _WORTH_PARSING.search(data):
            continue
        try:
            tree = ast.parse(data)
        except (SyntaxError, ValueError):
            continue
        # relative imports in a package's __init__ start from itself
        is_package = path.name == "__init__.py"
        modules[name] = _Module(name, name if is_package else name.rpartition(".")[0])
        modules[name].read(tree)

    survey = _Survey(modules)
    return [
        Models(base, survey.names(base, used)) for base, used in sorted(survey.users().items())
    ]


class _Survey:
    """All modules together. A base is told by its dotted name: of a class or an object that comes with a MetaData."""

    def __init__(self, modules: Mapping[str, _Module]) -> None:
        self._modules = modules

    def users(self) -> dict[str, dict[str, str]]:
        """Of each base the modules that define tables of it, each with a name that leads to it there."""
        found: dict[str, dict[str, str]] = {}
        for module in self._modules.values():
            tables = [name for name, one in module.classes.items() if one.has_table]
            for name in [*tables, *module.tables]:
                dotted = module.resolve(name)
                base = self._base(dotted)
                # a base that has columns of its own is no table
                if base is not None and not (name in tables and self._is_base(dotted)):
                    found.setdefault(base, {}).setdefault(module.name, name)
        return found

    def names(self, base: str, used: Mapping[str, str]) -> tuple[str, ...]:
        """One module that all others with tables are imported by, or each of them."""
        # the shortest name first, which is a package's
        for name in sorted(self._modules, key=len):
            holds = all(user == name or user.startswith(f"{name}.") for user in used)
            if holds and set(used) <= self._loaded_with(name):
                attribute = self._attribute(self._modules[name], base, used.get(name))
                if attribute is not None:
                    return (f"{name}:{attribute}",)

        each = ((name, self._attribute(self._modules[name], base, used[name])) for name in used)
        return tuple(f"{name}:{attribute}" for name, attribute in sorted(each))

    def _attribute(self, module: _Module, base: str, other: str | None) -> str | None:
        """How a module names the MetaData: by the base, or else by what leads to it."""
        for name in (*module.made, *module.classes, *module.imported):
            dotted = module.resolve(name)
            if self._base(dotted) == base and self._is_base(dotted):
                return name if self._maker(dotted) == _METADATA else f"{name}.metadata"
        return None if other is None else f"{other.removesuffix('.metadata')}.metadata"

    def _defined(self, name: str) -> tuple[_Module | None, str]:
        """The module that defines something, which may come to a module by way of others, and its name there."""
        seen = set[str]()
        while True:
            module, _, last = name.rpartition(".")
            found = self._modules.get(module)
            if found is None or last not in found.imported or name in seen:
                return found, name
            seen.add(name)
            name = found.imported[last]

    def _maker(self, name: str) -> str | None:
        module, name = self._defined(name)
        made = module.made.get(name.rpartition(".")[2]) if module else None
        return made[0] if made else None

    def _is_base(self, name: str) -> bool:
        """Whether a MetaData comes with this itself, and not with a class above it."""
        module, name = self._defined(name)
        if name == _SQLMODEL or module is None:
            return name == _SQLMODEL
        one = module.classes.get(name.rpartition(".")[2])
        return self._maker(name) is not None or (
            one is not None
            and bool(_DECLARATIVE & {module.resolve(base) for base in one.bases})
        )

    def _base(self, name: str, above: frozenset[str] = frozenset()) -> str | None:
        """The base whose MetaData a class or an object has, at any distance."""
        module, name = self._defined(name)
        owner, _, last = name.rpartition(".")
        # a circle of imports or bases
        if name in above:
            return None
        if module is None or name == _SQLMODEL:
            # `Base.metadata` given to a Table, and `db.Model`
            is_part = last in ("metadata", "Model")
            return (
                name
                if name == _SQLMODEL
                else self._base(owner, above | {name})
                if is_part
                else None
            )
        one = module.classes.get(last)
        given = one.metadata if one else module.made.get(last, ("", None))[1]
        if self._is_base(name):
            shared = self._base(module.resolve(given), above | {name}) if given else None
            return shared or name
        found = (
            self._base(module.resolve(base), above | {name})
            for base in (one.bases if one else ())
        )
        return next(filter(None, found), None)

    def _loaded_with(self, name: str) -> set[str]:
        """The modules that importing one imports."""
        loaded, pending = set[str](), [name]
        while pending:
            module = self._modules.get(pending.pop())
            if module is not None and module.name not in loaded:
                loaded.add(module.name)
                for target in module.imported.values():
                    # the target is a module, or a name in one
                    pending += [target, target.rpartition(".")[0]]
        return loaded
