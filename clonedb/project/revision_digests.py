"""What each revision is made of, as a digest of its own: its file, and the project's modules that it imports."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from clonedb.project.closure import Modules
from clonedb.project.find import Project
from clonedb.project.inputs import digest_of
from clonedb.project.stat_index import StatIndex

__all__ = ["revision_digests"]


def revision_digests(project: Project, *, index_dir: Path | None) -> Mapping[Path, str]:
    """The digest of each revision file by its real path; those that are alike do the same to the same database.

    Looked at for a build only: the fingerprint, which every run takes, needs no more than the
    files' own digests.
    """
    index = StatIndex(index_dir, f"{project.rootdir}\0{project.script_location}")
    modules = Modules(project.import_roots, index, rootdir=project.rootdir)
    closures: dict[
        tuple[str, ...], list[tuple[str, str]]
    ] = {}  # most revisions import the same
    found = {}
    for path in project.revision_files():
        contents = index.contents(os.path.abspath(path))  # noqa: PTH100 - links are left in it
        if contents is None:
            continue
        names = tuple(name for name in contents.imports if not name.startswith("."))
        if names not in closures:
            loaded = modules.closure(names)
            below = ((module.name, index.contents(where)) for where, module in loaded.items())
            closures[names] = sorted((name, each.digest) for name, each in below if each)

        found[path.resolve()] = digest_of(json.dumps([contents.digest, closures[names]]))

    return MappingProxyType(found)
