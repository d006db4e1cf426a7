"""What the tests of the fingerprint share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fingerprint.sample import FILES, SETTINGS, Sample


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.delenv("ALEMBIC_CONFIG", raising=False)
    sample = Sample(tmp_path / "checkout", dict(SETTINGS))
    for name, text in FILES.items():
        sample.write(name, text)
    monkeypatch.chdir(sample.rootdir)
    return sample
