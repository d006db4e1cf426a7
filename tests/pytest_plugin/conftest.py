"""What the plugin's tests share: a project whose template is built once a worker, and what a run left on the server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.projects import databases, shared_prefix


@pytest.fixture
def prefix(run_id: str, admin_dsn: str) -> Iterator[str]:
    """The worker's, for all tests of this directory."""
    with shared_prefix(f"p{run_id[:5]}_{os.getpid():x}", admin_dsn) as shared:
        yield shared


@pytest.fixture
def clones(admin_dsn: str, prefix: str) -> Callable[[], list[str]]:
    """A function that lists the clones on the server."""
    return lambda: databases(admin_dsn, f"{prefix}_c_")
