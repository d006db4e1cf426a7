"""The setting `url`: one server, or several, told apart in a text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clonedb.errors import ConfigError

__all__ = ["check_urls", "split_urls"]

# a comma may be a password's, or stand between two hosts of one URL: what begins another one
# has a scheme
_BETWEEN = r"[\s,]+(?=postgres(?:ql)?(?:\+\w+)?://)"

# a separator behind hosts and a slash: it is in the name of a database, or in what reads as a
# password because another @ follows
_HOST = r"(?:\[[^\]]*\]|[\w.%-]*)(?::[0-9]*)?"
_IN_NAME = rf"(?:://|@){_HOST}(?:,{_HOST})*/[^@?]*?(?P<separator>[\s,])"


def split_urls(text: str) -> list[str]:
    """The URLs in a text, separated by spaces or commas; only what a scheme follows separates."""
    return [part for part in re.split(_BETWEEN, text.strip(" \t\r\n,")) if part]


def check_urls(urls: Sequence[str], source: str) -> tuple[str, ...]:
    """Several URLs, each of them whole and none of them twice.

    Raises ConfigError, also where a separator may be a part of a password, or a second server
    has no scheme.
    """
    from clonedb.url import DatabaseURL, redact_url

    # an option that may be given several times may have several in each
    found = tuple(part.strip() for url in urls for part in split_urls(url))
    for number, url in enumerate(found, 1):
        count = f" {number} of {len(found)}" if len(found) > 1 else ""
        _require_one_server(url, f"{source}: url{count}")
    if len(found) < 2:
        return found
    for number, url in enumerate(found, 1):
        what = f"{source}: url {number} of {len(found)}"
        if re.search(r"[\s]|,$", url):
            raise ConfigError(
                f"{what}, {redact_url(url)!r}, has a space or ends in a comma; several URLs are separated by spaces or"
                " commas, and in a password they are written as %20 and %2C"
            )
        try:
            DatabaseURL.parse(url, what)
        except ConfigError as error:
            raise ConfigError(
                f"{error}; if a password has a space or a comma, write %20 or %2C"
            ) from None
        if url in found[: number - 1]:
            raise ConfigError(f"{what}, {redact_url(url)!r}, is there twice; take one away")
    return found


def _require_one_server(url: str, what: str) -> None:
    """Raises ConfigError if a second server without its scheme would be part of the database's name."""
    from clonedb.url import DatabaseURL, redact, redact_url

    # a parameter may have commas
    place = re.split(r"\?(?=\w+=)", url, maxsplit=1)[0]
    match = re.search(_IN_NAME, place)
    if match is None:
        return
    if DatabaseURL.parse(url, what).password is not None:
        shown = redact_url(url)
    else:
        # behind the separator is the second server's password
        at = match.end("separator")
        shown = redact(url[:at] + re.sub(r"(?s)^.*@", "***@", url[at:]))
    raise ConfigError(
        f"{what}, {shown!r}, is one server, as no postgresql:// follows the"
        f" {'comma' if match['separator'] == ',' else 'space'}; several are written as"
        " postgresql://h1/db,postgresql://h2/db, and a comma or a space of a name or a password as %2C or %20"
    )
