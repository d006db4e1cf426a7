"""What the tests of a project's files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedb.embedded import places
from tests.project.checkout import Write


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of the environment's, and a place of one's own for what Alembic answered."""
    monkeypatch.delenv("ALEMBIC_CONFIG", raising=False)
    monkeypatch.setattr(places, "default_state_dir", lambda: tmp_path / "state")


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a project's files into its directory, the current one, and return it."""
    rootdir = tmp_path / "checkout"
    rootdir.mkdir()
    monkeypatch.chdir(rootdir)

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = rootdir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return rootdir

    return write
