"""What the tests of a project's files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project.checkout import Write


@pytest.fixture(autouse=True)
def _no_alembic_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALEMBIC_CONFIG", raising=False)


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
