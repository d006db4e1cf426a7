"""Whatever programs do to a clone, after it was rewound nothing tells it from a fresh one."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from tests.differential.grammar import Ending, Program, Step, draw_program, draw_step
from tests.differential.laboratory import Laboratory
from tests.differential.sessions import share

_ENDINGS: tuple[Ending, ...] = ("commit", "close", "leave", "keep")


def steps(profile: str) -> st.SearchStrategy[tuple[Step, ...]]:
    """Statements, each drawn for itself, so that some can be left out of a program that fails."""
    one = st.randoms(use_true_random=False).map(lambda random: draw_step(random, profile))
    return st.lists(one, max_size=12).map(tuple)


def programs() -> st.SearchStrategy[Program]:
    """Ordinary ones more often than those with everything: they leave the clone for the next."""
    profiles = st.sampled_from(["ordinary", "ordinary", "ordinary", "reads", "everything"])
    endings = st.tuples(*[st.sampled_from(_ENDINGS)] * 3)
    return st.builds(Program, profiles.flatmap(steps), endings)


LIVES = st.lists(programs(), min_size=4, max_size=6)


_SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def _look_for_differences(laboratory: Laboratory, life: list[Program]) -> None:
    laboratory.retire()
    for program in life:
        laboratory.run(program)


@pytest.mark.parametrize(
    "lives", [3, pytest.param(18, marks=pytest.mark.campaign("differential"))]
)
def test_rewound_clones_equal_fresh_ones(laboratory: Laboratory, lives: int) -> None:
    """Programs, several in a row on each of some clones; `python -m tests.differential` runs thousands."""
    settings(_SETTINGS, max_examples=lives)(given(life=LIVES)(_look_for_differences))(
        laboratory
    )
    tally = laboratory.tally
    assert tally.programs >= 4 * lives - 2
    assert tally.dumps > 0 or laboratory.dumps_nothing


@pytest.mark.campaign("differential")
def test_programs_do_what_they_say(laboratory: Laboratory) -> None:
    """Most of their statements succeed, and most programs are undone: else little would be proven."""
    for number in range(40):
        laboratory.run(draw_program(Random(f"programs {number}")))
    laboratory.finish()
    laboratory.retire()
    tally = laboratory.tally
    assert share(tally.statements) > 0.8, tally.complaints.most_common(10)
    assert tally.rewound >= 20, tally.refused
    assert tally.untouched >= 1


def test_a_seed_gives_the_same_programs() -> None:
    """So that a difference can be found again."""
    assert (
        draw_program(Random("1 2"))
        == draw_program(Random("1 2"))
        != draw_program(Random("1 3"))
    )


def test_a_difference_is_shown_with_the_program(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed can be read, and run again: the statements, the table, the rows."""
    from tests.differential.laboratory import DifferenceError

    statement = "insert into watched (n) values (42)"
    program = Program((Step(1, statement, None, "dml"),), ("commit", "close", "leave"))
    monkeypatch.setattr("clonedb.rewind.rewinder.Rewinder._rewind", lambda *_: "untouched")
    with pytest.raises(DifferenceError) as caught:
        laboratory.run(program)
    assert f"1: {statement}" in str(caught.value)
    assert "rows of public.watched" in str(caught.value)
    assert "+ (11,42,1)" in str(caught.value)
    assert caught.value.life == (program,)
