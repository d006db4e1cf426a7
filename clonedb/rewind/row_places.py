"""Where rows are: blocks, ranges of them, and the pristine rows that are no longer where the template has them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

__all__ = ["MovedRows", "block_of", "ranges"]


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
    # the `most` - 1 widest gaps are kept, so that the fewest blocks are looked at in vain
    gaps = sorted(
        range(1, len(found)), key=lambda n: found[n][0] - found[n - 1][1], reverse=True
    )
    starts = [0, *sorted(gaps[: most - 1])]
    ends = [*(start - 1 for start in starts[1:]), len(found) - 1]
    return [(found[start][0], found[end][1]) for start, end in zip(starts, ends, strict=True)]


class MovedRows:
    """Where a table's pristine rows are that are not at their places in the template.

    A row's place in the template is its name. Each row that was put back elsewhere is in
    `_present` under its name, and in `_names` under the block and place that it has now; a row
    that came back to its own place is in neither. VACUUM frees the places of dead rows, so a
    row may come home, and another row may take its place.
    """

    __slots__ = ("_names", "_present")

    def __init__(self) -> None:
        self._present: dict[str, str] = {}
        self._names: dict[int, dict[str, str]] = {}

    @property
    def blocks(self) -> Collection[int]:
        """The blocks that hold rows which were put back there."""
        return self._names.keys()

    def rows(self, blocks: Iterable[int], template: Iterable[str]) -> dict[str, str]:
        """The pristine rows that belong into some blocks, names by present place.

        `template` are the names of those that the template has there.
        """
        found = {name: name for name in template if name not in self._present}
        for block in blocks:
            found.update(self._names.get(block, {}))
        return found

    def move(self, moves: Iterable[tuple[str, str, str]]) -> None:
        """Pristine rows were put back: (old place, new place, name) of each.

        All leave their old places before the first is at its new one, which may be the old
        place of another.
        """
        moved = list(moves)
        for old, _, name in moved:
            # `_names` has a row only while it is elsewhere than at home
            if self._present.pop(name, None) is not None:
                del self._names[block_of(old)][old]
        for _, new, name in moved:
            if new != name:
                self._present[name] = new
                self._names.setdefault(block_of(new), {})[new] = name
