"""What these tests share with those of the plugin."""

from __future__ import annotations

from tests.pytest_plugin.conftest import clones, environment, prefix

__all__ = ["clones", "environment", "prefix"]
