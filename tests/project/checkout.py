"""A project's files in a directory of their own, and how Alembic sees them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clonedb.project.find import Project
from clonedb.settings.config import Config

Write = Callable[[dict[str, str]], Path]

ENVIRONMENT = {
    "migrations/env.py": "",
    "migrations/versions/a.py": "",
    "lib/x.py": "",
    "more/versions/b.py": "",
}


def configured(rootdir: Path, **settings: Any) -> Config:
    return Config(rootdir=rootdir).replace("test", **settings)


def as_alembic_sees(
    rootdir: Path, *, ini: Path | None, toml: Path | None, section: str = "alembic"
) -> Project:
    """What Alembic makes of the same files, as far as it says; sys.path and the modules it imported are put back."""
    from alembic.config import Config as AlembicConfig
    from alembic.script import ScriptDirectory

    path, loaded = sys.path[:], set(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = AlembicConfig(ini, toml_file=toml, ini_section=section)
        script = ScriptDirectory.from_config(config)
        prepended = config.get_prepend_sys_paths_list() or []
        locations = [str(location) for location in script._version_locations]
    sys.path[:] = path
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__path__", "")).find(str(rootdir)) >= 0:
            del sys.modules[name]
    roots = [Path(os.path.normpath(rootdir / text)) for text in prepended if text]
    return Project(
        rootdir=rootdir,
        ini=ini,
        toml=toml,
        section=section,
        options={},
        script_location=Path(os.path.normpath(rootdir / script.dir)),
        version_locations=tuple(Path(os.path.normpath(location)) for location in locations),
        recursive=script.recursive_version_locations,
        import_roots=tuple(root for root in dict.fromkeys(roots) if root.is_dir()),
        name="",
    )
