"""`echo`: the statements of every SQLAlchemy engine of this process, printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

__all__ = ["print_statements"]


def print_statements() -> None:
    """Print the statements of every engine, the application's too, as `create_engine(echo=True)` does for one."""
    import logging

    logger = logging.getLogger("sqlalchemy.engine.Engine")
    logger.setLevel(logging.INFO)
    logger.addFilter(_print)  # a second time nothing happens


def _print(record: logging.LogRecord) -> bool:
    """Print a statement, and log it no more: pytest would show it a second time."""
    sys.stdout.write(f"{record.getMessage()}\n")
    return False
