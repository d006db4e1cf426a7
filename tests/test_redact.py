"""What is shown of a text that speaks of passwords and has none."""

from __future__ import annotations

from clonedb.url import redact


def test_code_about_passwords_is_shown() -> None:
    """A traceback's line with SQLAlchemy's `hide_password` is what it was; a password beside it is not told."""
    code = "url = engine.url.render_as_string(hide_password=False).replace('%', '%%')"
    assert redact(code) == code
    assert (
        redact("f(hide_password = True, password=abc)")
        == "f(hide_password = True, password=***)"
    )
