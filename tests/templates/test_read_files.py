"""The files that a build reads, as the kernel sees them, are those that its fingerprint was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clonedb.migrate.recipes import find_recipe
from clonedb.settings.config import Config
from clonedb.templates.ensure import sources_of
from tests.projects import ENV_PY, Project, one
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
    "a list in the setting": (
        "",
        {"alembic": {"version_locations": ["migrations/versions", "more"]}},
    ),
    "a list beside a separator": (
        "path_separator = os\n",
        {"alembic": {"version_locations": ["migrations/versions", "more"]}},
    ),
    "a text": (
        "version_path_separator = :\nversion_locations = migrations/versions:more\n",
        {},
    ),
    "spaces": ("version_locations = migrations/versions more\nprepend_sys_path = .\n", {}),
    "recursive": ("recursive_version_locations = true\n", {}),
    "a package": ("version_locations = shop:revisions migrations/versions\n", {}),
}


@pytest.fixture
def read(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Config], set[str]]:
    """A function that builds the template, and gives the names of the project's files that were read for it."""
    log = tmp_path / "read.txt"
    hook = tmp_path / "hook"
    hook.mkdir()
    rootdir = str(project.directory.resolve())
    (hook / "sitecustomize.py").write_text(
        _SITECUSTOMIZE.format(rootdir=f"{rootdir}/", log=str(log))
    )
    monkeypatch.setenv("PYTHONPATH", str(hook))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.chdir(project.directory)

    def build(config: Config) -> set[str]:
        log.unlink(missing_ok=True)
        opened(config)[0].close()
        return {str(Path(line).relative_to(rootdir)) for line in log.read_text().splitlines()}

    return build


@pytest.mark.campaign("long")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_build_reads_is_in_the_fingerprint(
    project: Project,
    configured: Callable[..., Config],
    read: Callable[[Config], set[str]],
    layout: str,
) -> None:
    """Wherever Alembic is told that revisions are; what only env.py imports is left out, as the README says."""
    options, settings = LAYOUTS[layout]
    project.write("alembic.ini", f"[alembic]\nscript_location = migrations\n{options}")
    project.write(
        "migrations/env.py",
        "import models\n" + ENV_PY.replace("{}", '{"sqlalchemy.url": "postgresql://"}'),
    )
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

    assert {
        "migrations/env.py",
        "migrations/versions/one.py",
        "seed.sql",
        "seeds.py",
        "watched.txt",
    } < found
    sources = sources_of(find_recipe(config))
    known = {"seeds.py" if item.name == "seeds:fill" else item.name for item in sources.inputs}
    assert found - known == {"models.py"}, json.dumps(sorted(known))
    revisions = {item.name for item in sources.inputs if item.kind == "revision"}
    assert revisions <= found


CHANGED_AND_CHANGED_BACK = """
import pathlib
first, data = pathlib.Path("first"), pathlib.Path("shop/data.py")
right = data.read_text()
if not first.exists():
    first.touch()
    data.write_text("NAME = 'wrong'")
from shop.data import NAME
data.write_text(right) if NAME == "wrong" else None
op.execute(f"create table {NAME} ()")
"""


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's directory is the current one, and Python leaves nothing in it."""
    monkeypatch.chdir(project.directory)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


def test_a_file_changed_and_changed_back_is_noticed(
    project: Project, configured: Callable[..., Config], here: None
) -> None:
    """Its digest is what it was, its times are not; the template has what the file says."""
    project.write("shop/__init__.py", "")
    project.write("shop/data.py", "NAME = 'good'\n")
    project.revision("one", CHANGED_AND_CHANGED_BACK)
    template, heard = opened(configured())
    with template, template.clone() as clone:
        assert one(
            clone,
            "select count(*), min(relname) from pg_class where relname in ('good', 'wrong')",
        ) == (
            1,
            "good",
        )
    assert (
        "'shop/data.py' was written before the template was ready; beginning again with what is there now"
        in (heard.lines)
    )


def test_a_file_that_each_build_writes_is_warned_of(
    project: Project, configured: Callable[..., Config], here: None
) -> None:
    """Such as a dump of the schema: the third attempt takes it, if its contents stay the same."""
    project.write("migrations/schema.sql", "select 1")
    project.revision(
        "one", "import pathlib\npathlib.Path('migrations/schema.sql').write_text('select 1')"
    )
    template, heard = opened(configured())
    template.close()
    assert [
        line
        for line in heard.lines
        if line.startswith("'migrations/schema.sql' was written each time")
    ]


OF_THE_INI_FILE = """
import pathlib
from alembic import context
table, ini = context.config.get_main_option("made", "old"), pathlib.Path("alembic.ini")
if table == "old":
    ini.write_text(ini.read_text().replace("[alembic]", "[alembic]\\nmade = new", 1))
op.execute(f"create table {table}_table ()")
"""


def test_an_option_edited_during_a_build_is_noticed(
    project: Project, configured: Callable[..., Config], here: None
) -> None:
    """What Alembic says of alembic.ini is looked at anew when a build ends, and when the next begins."""
    project.revision("one", OF_THE_INI_FILE)
    template, heard = opened(configured())
    with template, template.clone() as clone:
        assert one(
            clone, "select min(relname) from pg_class where relname like '%%_table'"
        ) == ("new_table",)
    assert (
        "'made' was added before the template was ready; beginning again with what is there now"
        in heard.lines
    )


def test_a_revision_that_is_gone_when_the_build_ends_is_noticed(
    project: Project, configured: Callable[..., Config], here: None
) -> None:
    """It came after the first look at the files and went before the last, and was migrated."""
    project.revision("one", "pass")
    lines = "revision, down_revision = 'two', 'one'\ndef upgrade(): __import__('os').unlink(__file__)\n"
    place = "import pathlib\nfirst = pathlib.Path('first')\nif not first.exists():\n    first.touch()\n"
    write = f"    pathlib.Path('migrations/versions/two.py').write_text({lines!r})\n"
    project.write("migrations/env.py", place + write + ENV_PY)
    template, heard = opened(configured())
    template.close()
    assert template.heads == ("one",)
    assert [
        line
        for line in heard.lines
        if line.startswith("'migrations/versions/two.py' was written before the")
    ]
    assert " is ready: 1 revision in " in heard.lines[-1]


def test_a_file_that_is_not_there_is_not_to_be_watched(
    project: Project, configured: Callable[..., Config], here: None
) -> None:
    """env.py may look for one in vain; one that it finds is named."""
    look = "import contextlib\nfor name in ('local.ini', 'other.ini'):\n    with contextlib.suppress(OSError): open(name).close()\n"
    project.write("migrations/env.py", look + ENV_PY)
    project.write("other.ini", "")
    project.revision("one", "pass")
    template, heard = opened(configured())
    template.close()
    (line,) = [line for line in heard.lines if "add watch" in line]
    assert line.endswith('add watch = ["other.ini"] to [tool.clonedb]')
