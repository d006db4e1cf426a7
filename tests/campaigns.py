"""Campaigns: tests that take long, left out of a run that does not name them, so that it is one of minutes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

CAMPAIGNS = {
    "histories": "published histories of other projects, installed from the package index",
    "differential": "many random programs, and every fault that they have to find",
    "kills": "processes and servers killed, frozen and interrupted at many moments, and many processes at once",
    "applications": "applications, generators, tools and clients as their own packages have them",
    "hosts": "several hosts, as network namespaces, that share a server, are cut off and suspended (needs root)",
    "long": "single tests of two seconds and more: whole projects, servers of their own, waits",
    "variants": "what a quicker test shows for one driver or one number of workers, shown for the others",
}


def add_option(parser: pytest.Parser) -> None:
    """`--campaign NAME`, which may be given several times; `all` stands for every campaign."""
    names = "; ".join(f"{name}: {about}" for name, about in CAMPAIGNS.items())
    parser.addoption(
        "--campaign",
        action="append",
        default=[],
        choices=(*CAMPAIGNS, "all"),
        help=f"run the tests of a campaign instead of the others ({names})",
    )


def add_marker(config: pytest.Config) -> None:
    """Declare the marker that puts a test, or one of its parameters, into a campaign."""
    config.addinivalue_line("markers", "campaign(name): the test runs in this campaign only")


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the campaigns that were named, or those of none.

    A test that is named by its id runs in any case.
    """
    wanted = config.getoption("--campaign")
    if not wanted and any("::" in argument for argument in config.args):
        return
    kept = [item for item in items if _is_wanted(_campaign(item), wanted)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def _campaign(item: pytest.Item) -> str | None:
    """The campaign that a test belongs to. Raises UsageError for one that does not exist."""
    marker = item.get_closest_marker("campaign")
    if marker is None:
        return None
    (name,) = marker.args
    if name not in CAMPAIGNS:
        raise pytest.UsageError(
            f"{item.nodeid}: campaign {name!r} is none of {', '.join(CAMPAIGNS)}"
        )
    return str(name)


def _is_wanted(campaign: str | None, wanted: Sequence[str]) -> bool:
    if campaign is None:
        return not wanted
    return campaign in wanted or "all" in wanted


VARIANT = pytest.mark.campaign("variants")
"""For a parameter that repeats, for another driver or another number of workers, what the others show already."""
