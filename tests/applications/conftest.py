"""What these tests share with those of the plugin."""

from __future__ import annotations

from tests.pytest_plugin.conftest import clones, prefix

__all__ = ["clones", "prefix"]
