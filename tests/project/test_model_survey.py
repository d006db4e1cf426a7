"""Where a project's models are, found without running any of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedb.project.model_survey import Models, survey_models

BASE = "from sqlalchemy.orm import DeclarativeBase\nclass Base(DeclarativeBase): pass\n"
MODEL = "class {0}({1}):\n    __tablename__ = '{0}'\n    id: Mapped[int] = mapped_column(primary_key=True)\n"

LAYOUTS: dict[str, tuple[dict[str, str], list[Models]]] = {
    "one module": (
        {"models": BASE + MODEL.format("Item", "Base")},
        [Models("models.Base", ("models:Base.metadata",))],
    ),
    "a base elsewhere": (
        {
            "shop.db": BASE
            + "class Named(Base):\n    __abstract__ = True\n    name: Mapped[str]\n",
            "shop.items": "from shop.db import Base\n" + MODEL.format("Item", "Base"),
            "shop.users": "from . import db\n" + MODEL.format("User", "db.Named"),
        },
        [Models("shop.db.Base", ("shop.items:Base.metadata", "shop.users:User.metadata"))],
    ),
    "a package that imports them": (
        {
            "shop.db": BASE,
            "shop.models.__init__": "from shop.db import Base\nfrom .item import Item\nfrom .user import User\n",
            "shop.models.item": "from shop.db import Base\n" + MODEL.format("Item", "Base"),
            "shop.models.user": "from ..db import Base as B\n" + MODEL.format("User", "B"),
            "shop.main": "from shop.models import Base, Item, User\n",
        },
        [Models("shop.db.Base", ("shop.models:Base.metadata",))],
    ),
    "SQLModel": (
        {
            "app": "from sqlmodel import Field, SQLModel\nclass HeroBase(SQLModel):\n    name: str\n"
            "class Hero(HeroBase, table=True):\n    id: int | None = Field(primary_key=True)\n"
            "class HeroPublic(HeroBase):\n    id: int\n"
        },
        [Models("sqlmodel.SQLModel", ("app:SQLModel.metadata",))],
    ),
    "Flask-SQLAlchemy": (
        {
            "shop.__init__": "from flask_sqlalchemy import SQLAlchemy\ndb = SQLAlchemy()\n",
            "shop.models": "from shop import db\nclass Item(db.Model):\n    id = db.Column(db.Integer, primary_key=True)\n",
        },
        [Models("shop.db", ("shop.models:db.metadata",))],
    ),
    "tables": (
        {
            "schema": "import sqlalchemy as sa\nmetadata = sa.MetaData()\nitem = sa.Table('item', metadata)\n",
        },
        [Models("schema.metadata", ("schema:metadata",))],
    ),
    "a MetaData of two": (
        {
            "shop.names": "from sqlalchemy import MetaData\nmetadata = MetaData(naming_convention={})\n",
            "shop.models": "from sqlalchemy import Table\nfrom sqlalchemy.orm import declarative_base\n"
            "from shop.names import metadata\nBase = declarative_base(metadata=metadata)\n"
            "pairs = Table('pairs', Base.metadata)\n" + MODEL.format("Item", "Base"),
        },
        [Models("shop.names.metadata", ("shop.models:Base.metadata",))],
    ),
    "two": (
        {
            "one": BASE + MODEL.format("Item", "Base"),
            "two": "from sqlalchemy.ext.declarative import declarative_base\nOther = declarative_base()\n"
            + MODEL.format("Item", "Other"),
        },
        [
            Models("one.Base", ("one:Base.metadata",)),
            Models("two.Other", ("two:Other.metadata",)),
        ],
    ),
    "none": (
        {
            "plain": "class Base: pass\nclass Item(Base):\n    __tablename__ = 'x'\n",
            "circle": "from circle import Base\nfrom sqlalchemy import x\nclass Item(Base): __tablename__ = 'x'\n",
            "broken": "from sqlalchemy import\n",
            "empty": BASE,
        },
        [],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_models_are_found(tmp_path: Path, layout: str) -> None:
    """Each MetaData with tables, and the shortest list of names whose import gives them all."""
    texts, expected = LAYOUTS[layout]
    files = []
    for name, text in texts.items():
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        files.append((name.removesuffix(".__init__"), path))
    assert survey_models(files) == expected
