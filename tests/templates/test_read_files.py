"""The files that a build reads, as the kernel sees them, are those that its fingerprint was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clonedb.config import Config
from clonedb.project.find import find_project
from clonedb.templates.find import sources_of
from tests.projects import ENV_PY, Project
from tests.templates.conftest import opened

# Python imports it in every interpreter that finds it
_SITECUSTOMIZE = """
import os, sys
def look(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and "r" in (arguments[1] or "r"):
        path = os.path.realpath(arguments[0])
        if path.startswith({rootdir!r}) and path.endswith((".py", ".sql", ".txt")):
            descriptor = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, (path + chr(10)).encode())
            os.close(descriptor)
sys.addaudithook(look)
"""
LAYOUTS: dict[str, tuple[str, dict[str, object]]] = {
    "plain": ("", {}),
    "a list in the setting": ("", {"alembic": {"version_locations": ["migrations/versions", "more"]}}),
    "a list beside a separator": (
        "path_separator = os\n",
        {"alembic": {"version_locations": ["migrations/versions", "more"]}},
    ),
    "a text": ("version_path_separator = :\nversion_locations = migrations/versions:more\n", {}),
    "spaces": ("version_locations = migrations/versions more\nprepend_sys_path = .\n", {}),
    "recursive": ("recursive_version_locations = true\n", {}),
    "a package": ("version_locations = shop:revisions migrations/versions\n", {}),
}


@pytest.fixture
def read(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Config], set[str]]:
    """A function that builds the template, and gives the names of the project's files that were read for it."""
    log = tmp_path / "read.txt"
    hook = tmp_path / "hook"
    hook.mkdir()
    rootdir = str(project.directory.resolve())
    (hook / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(rootdir=f"{rootdir}/", log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(hook))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.chdir(project.directory)

    def build(config: Config) -> set[str]:
        log.unlink(missing_ok=True)
        opened(config)[0].close()
        return {str(Path(line).relative_to(rootdir)) for line in log.read_text().splitlines()}

    return build


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_build_reads_is_in_the_fingerprint(
    project: Project, configured: Callable[..., Config], read: Callable[[Config], set[str]], layout: str
) -> None:
    """Wherever Alembic is told that revisions are; what only env.py imports is left out, as the README says."""
    options, settings = LAYOUTS[layout]
    project.write("alembic.ini", f"[alembic]\nscript_location = migrations\n{options}")
    project.write("migrations/env.py", "import models\n" + ENV_PY.replace("{}", '{"sqlalchemy.url": "postgresql://"}'))
    project.write("models.py", "")
    project.write("shop/__init__.py", "")
    project.write("shop/names.py", "from shop import other\n")
    project.write("shop/other.py", "")
    project.write("seed.sql", "select 1")
    project.write("seeds.py", "def fill(connection): open('watched.txt').close()\n")
    project.write("watched.txt", "")
    project.revision("one", "from shop.names import other")
    body = "from alembic import op\nrevision, down_revision = {0!r}, 'one'\ndef upgrade(): op.execute('select 1')\n"
    for name in ("more/two.py", "migrations/versions/below/three.py", "shop/revisions/four.py"):
        project.write(name, body.format(name[-12:]))
    settings = {"seed": ["seed.sql", "seeds:fill"], "watch": ["watched.txt"], **settings}
    config = configured(**settings)

    found = read(config)

    assert {"migrations/env.py", "migrations/versions/one.py", "seed.sql", "seeds.py", "watched.txt"} < found
    sources = sources_of(config, find_project(config))
    known = {"seeds.py" if item.name == "seeds:fill" else item.name for item in sources.inputs}
    assert found - known == {"models.py"}, json.dumps(sorted(known))
    revisions = {item.name for item in sources.inputs if item.kind == "revision"}
    assert revisions <= found
