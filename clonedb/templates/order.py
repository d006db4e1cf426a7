"""What is to be built: a template, for a fingerprint, upon another one or from nothing."""

from __future__ import annotations

from dataclasses import dataclass

from clonedb.project.fingerprint import Fingerprint, Sources
from clonedb.project.recipe import Recipe
from clonedb.settings.config import Config
from clonedb.templates.edits import Edits
from clonedb.templates.metadata import TemplateRecord

__all__ = ["Order"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be built: the template `name` for a fingerprint; `base` is what its configuration builds it upon.

    With `layers`, a sealed template that is a beginning of the history is taken and only the
    rest is run.
    """

    recipe: Recipe
    sources: Sources
    wanted: Fingerprint
    name: str
    run: str
    base: TemplateRecord | None
    layers: bool
    edits: Edits

    @property
    def config(self) -> Config:
        """The configuration of the template."""
        return self.recipe.config

    @property
    def step(self) -> str:
        """What a step of the recipe is called."""
        return self.recipe.words.step
