"""Where rows are: blocks, ranges of them, and the pristine rows that are no longer where the template has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

__all__ = ["Layout", "block_of", "ranges"]


def block_of(place: str) -> int:
    """The block of a ctid: 17 for '(17,3)'."""
    return int(place[1 : place.index(",")])


def ranges(blocks: Collection[int], *, most: int | None = None) -> list[tuple[int, int]]:
    """Blocks as ranges with exclusive ends; with more than `most`, the narrowest gaps are closed."""
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found and block == found[-1][1]:
            found[-1] = found[-1][0], block + 1
        else:
            found.append((block, block + 1))
    if most is None or len(found) <= most:
        return found
    gaps = sorted(range(1, len(found)), key=lambda n: found[n][0] - found[n - 1][1], reverse=True)
    starts = [0, *sorted(gaps[: most - 1])]
    ends = [*(start - 1 for start in starts[1:]), len(found) - 1]
    return [(found[start][0], found[end][1]) for start, end in zip(starts, ends, strict=True)]


class Layout:
    """Where a table's pristine rows are that are not at their places in the template.

    A row's place in the template is its name. `_moved` has, for each block, the present places of the rows that were
    put there and their names; `_away` has the names of all that are not at home.
    """

    __slots__ = ("_away", "_moved")

    def __init__(self) -> None:
        self._moved: dict[int, dict[str, str]] = {}
        self._away: set[str] = set()

    def rows(self, blocks: Iterable[int], template: Iterable[str]) -> dict[str, str]:
        """The pristine rows that belong into some blocks, names by present place.

        `template` are the names of those that the template has there.
        """
        found = {place: place for place in template if place not in self._away}
        for block in blocks:
            found.update(self._moved.get(block, {}))
        return found

    def move(self, old: str, new: str, name: str) -> None:
        """A pristine row was put back at another place."""
        if old == name:
            self._away.add(name)
        else:
            del self._moved[block_of(old)][old]
        self._moved.setdefault(block_of(new), {})[new] = name
