"""What an env.py expects to be run by, and where the project has it: found in its files, without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from clonedb.project.survey import modules_of

__all__ = ["Launcher", "launcher_of"]

_MARKS = (("flask", "current_app"), ("advanced_alchemy", "advanced_alchemy"))
_MADE_BY = MappingProxyType(
    {
        "flask": frozenset({"Flask"}),
        "advanced_alchemy": frozenset({"SQLAlchemyAsyncConfig", "SQLAlchemySyncConfig"}),
    }
)
_FACTORIES = frozenset({"create_app", "make_app"})  # as Flask's own command looks for them


class Launcher(NamedTuple):
    """`kind` is flask or advanced_alchemy; `names` are the applications, or configurations, as `prepare` names them."""

    kind: str
    names: tuple[str, ...]


def launcher_of(env_py: Path, rootdir: Path) -> Launcher | None:
    """What runs an env.py in place of the alembic command; None when that itself does."""
    text = env_py.read_text(encoding="utf-8", errors="replace")
    kind = next((kind for kind, mark in _MARKS if mark in text), None)
    if kind is None:
        return None
    names = (
        f"{module}:{name}"
        for module, path in modules_of(rootdir)
        for name in _found(kind, path.read_bytes())
    )
    return Launcher(kind, tuple(names))


def _found(kind: str, data: bytes) -> Iterator[str]:
    if not any(name.encode() in data for name in _MADE_BY[kind]):
        return
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            if kind == "flask" and node.name in _FACTORIES:
                yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            # `app = Flask(...)`, at the top of a module
            maker = ast.unparse(node.value.func).rpartition(".")[2]
            if maker in _MADE_BY[kind]:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                yield ast.unparse(target)
