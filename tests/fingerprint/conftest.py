"""What the tests of the fingerprint share."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedb.embedded import places
from tests.fingerprint.sample import FILES, SETTINGS, Sample


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.delenv("ALEMBIC_CONFIG", raising=False)
    monkeypatch.setattr(places, "default_state_dir", lambda: tmp_path / "state")
    sample = Sample(tmp_path / "checkout", dict(SETTINGS))
    for name, text in FILES.items():
        sample.write(name, text)
    monkeypatch.chdir(sample.rootdir)
    return sample
