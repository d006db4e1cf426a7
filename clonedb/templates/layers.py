"""Layers: sealed templates that a changed history can be built upon, because they are a beginning of it.

What a recipe does to an empty database is a list of steps, one after the other: Alembic's
revisions. A template is a beginning of that list when it was made by its first steps, in that
order, from files of the same contents, amid the same surroundings (env.py, options, server).
The order counts, and not only which revisions there are: two branches that change one table
leave its columns in the order in which they came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clonedb.postgres.server import Server
from clonedb.postgres.statements import changes_contents
from clonedb.project.fingerprint import OF_STEPS, Difference, Fingerprint, differences
from clonedb.project.recipe import Built, Words
from clonedb.templates.catalog import templates
from clonedb.templates.crash_losses import what_is_lost
from clonedb.templates.metadata import TemplateRecord

__all__ = ["History", "deepest", "history", "likeliest", "unfit", "why_none"]


@dataclass(frozen=True, slots=True)
class History:
    """The steps that lead from nothing to the target, in order; `digests[n]` is that of the first n steps."""

    steps: tuple[str, ...]
    digests: tuple[str, ...]

    @property
    def last(self) -> tuple[str, int]:
        """The digest of all steps, and how many they are."""
        return self.digests[-1], len(self.steps)


def history(surroundings: str, steps: Sequence[tuple[str, str]]) -> History:
    """The history that a recipe's steps are, each with the digest of what it depends on."""
    found = [surroundings]
    for name, digest in steps:
        # each digest holds those before it: equal ones mean equal beginnings
        found.append(hashlib.sha256(f"{found[-1]} {name} {digest}".encode()).hexdigest())
    return History(tuple(name for name, _ in steps), tuple(found))


def unfit(
    history: History | str,
    built: Built,
    words: Words,
    settings: Sequence[Sequence[str | None]],
    *,
    begun: int,
) -> str:
    """Why nothing may be built upon what steps made, because it would not be what it is from zero; '' if it may.

    `history` is why there is none, if it is a text. `settings` are the database's own, and
    `begun` how many steps were there already. A setting that a step gave to the database or
    left in its session holds in another session from the start, or no longer: the steps after
    it would do something else. What was run must be what had been planned.
    """
    if isinstance(history, str):
        return history
    if names := sorted({str(name) for _, name, _ in settings if changes_contents(str(name))}):
        return f"the {words.step}s gave the database settings of its own ({', '.join(names)})"
    if built.left_behind:
        return f"the {words.step}s left settings to those after them in their session ({', '.join(built.left_behind)})"
    if built.steps != history.steps[begun:]:
        return f"other {words.step}s were run than {words.maker} plans"
    return ""


def deepest(server: Server, wanted: History) -> Iterator[TemplateRecord]:
    """The sealed templates that are a beginning of a history, the deepest first."""
    for template in _by_depth(server):
        metadata = template.metadata
        fits = (
            # `digests` has one more than there are steps: the first is that of no step
            metadata.depth < len(wanted.digests)
            and wanted.digests[metadata.depth] == metadata.layer
        )
        if fits and what_is_lost(server, template) is None:
            yield template


def likeliest(server: Server, wanted: Fingerprint) -> TemplateRecord | None:
    """The template that will most likely be the deepest, guessed from the inputs alone, not from a history."""
    inputs = {tuple(item) for item in wanted.abbreviated()}
    beside = {item for item in inputs if item[0] not in OF_STEPS}
    for template in _by_depth(server):
        theirs = {
            (kind, name, digest)
            for kind, name, digest in template.metadata.inputs
            # another target is no difference, as long as its steps are among these
            if kind != "target"
        }
        if theirs <= inputs and {item for item in theirs if item[0] not in OF_STEPS} == beside:
            return template
    return None


def why_none(
    server: Server, project: str, lane: str, wanted: Fingerprint, step: str
) -> str | None:
    """Why none of a project's templates is a beginning of what is wanted, by the newest one; None if it has none.

    One of the same lane (the setting `template`) tells more than any other. `step` is the
    recipe's word for one.
    """
    known = [
        found
        for found in templates(server)
        if found.metadata.project == project and _is_of_steps(found)
    ]
    newest = next(
        (found for found in known if found.metadata.lane == lane), next(iter(known), None)
    )
    if newest is None:
        return None
    if newest.metadata.unfit:
        return f"{newest.name!r} is no beginning for another template: {newest.metadata.unfit}"
    if lost := what_is_lost(server, newest):
        return f"{newest.name!r} has lost {lost} in a crash of the server"
    changes = differences(newest.metadata.inputs, wanted)
    # a change in what all steps depend on (env.py, options) makes every layer unfit
    for_all = [change for change in changes if change.kind not in OF_STEPS]
    named = [f"{_shown(change)} was {change.change}" for change in for_all or changes]
    if not named:
        return f"the {step}s are those of {newest.name!r} in another order"
    return (
        ", ".join(named[:3])
        + (f" and {len(named) - 3} more" if len(named) > 3 else "")
        + f" since {newest.name!r}"
    )


def _shown(change: Difference) -> str:
    """`file 'env.py'`; of a setting, which is called by its kind, that alone."""
    return change.kind if change.kind == change.name else f"{change.kind} {change.name!r}"


def _is_of_steps(template: TemplateRecord) -> bool:
    """Whether steps alone made it: seeds and bases are layers of their own."""
    return all(kind not in ("base", "seed") for kind, *_ in template.metadata.inputs)


def _by_depth(server: Server) -> list[TemplateRecord]:
    """Templates that something may be built upon; of several as deep the newest."""
    found = [
        template
        for template in templates(server)
        if template.metadata.layer and template.metadata.depth > 0
    ]
    # sorted() keeps the order of equals, and `templates` gives the newest first
    return sorted(found, key=lambda template: template.metadata.depth, reverse=True)
