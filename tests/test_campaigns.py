"""Campaigns are run by CI, named in the documentation, and left out otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns import CAMPAIGNS, select

ROOT = Path(__file__).parents[1]


@pytest.fixture
def items(request: pytest.FixtureRequest) -> list[pytest.Item]:
    """Two tests of this run: one of no campaign, and one of `kills`."""
    plain = pytest.Function.from_parent(request.node.parent, name="test_ci_runs_every_campaign")
    marked = pytest.Function.from_parent(
        request.node.parent, name="test_contributors_are_told_of_each"
    )
    marked.add_marker(pytest.mark.campaign("kills"))
    return [plain, marked]


@pytest.mark.parametrize(
    ("wanted", "kept"), [([], [0]), (["kills"], [1]), (["variants"], []), (["all"], [1])]
)
def test_a_campaign_runs_when_it_is_named(
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
    items: list[pytest.Item],
    wanted: list[str],
    kept: list[int],
) -> None:
    """And then nothing else does."""
    monkeypatch.setattr(pytestconfig.option, "campaign", wanted)
    monkeypatch.setattr(pytestconfig, "args", ["tests"])
    chosen = list(items)
    select(pytestconfig, chosen)
    assert chosen == [items[number] for number in kept]


def test_ci_runs_every_campaign() -> None:
    """After the README's second command."""
    assert (
        "pytest -n auto --campaign all"
        in (ROOT / ".ci/run").read_text().partition("readme second")[2]
    )


def test_contributors_are_told_of_each() -> None:
    """By its name."""
    told = (ROOT / "CONTRIBUTING.md").read_text()
    assert [name for name in CAMPAIGNS if f"`{name}`" not in told] == []
