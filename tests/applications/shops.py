"""Two small shops on FastAPI, as one finds them: settings, engine and sessionmaker at module level, made for no test."""

from __future__ import annotations

from tests.projects import Project

SETTINGS = """
from pydantic import PostgresDsn
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    database_url: PostgresDsn


settings = Settings()
"""

SYNC_APP = """
from typing import Annotated, Iterator

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from shop.settings import settings

engine = create_engine(str(settings.database_url), pool_size=2, pool_pre_ping=True)
make_session = sessionmaker(engine)
app = FastAPI()


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


def session() -> Iterator[Session]:
    with make_session() as opened:
        yield opened


Opened = Annotated[Session, Depends(session)]


@app.post("/items", status_code=201)
def create(name: str, session: Opened) -> int:
    item = Item(name=name)
    session.add(item)
    session.commit()
    return item.id


@app.get("/items")
def names(session: Opened) -> list[str]:
    return list(session.scalars(select(Item.name).order_by(Item.id)))


@app.get("/items/{number}")
def name(number: int, session: Opened) -> str:
    item = session.get(Item, number)
    if item is None:
        raise HTTPException(404)
    return item.name
"""

ASYNC_APP = """
import asyncio
from contextlib import asynccontextmanager
from typing import Annotated, AsyncIterator

from fastapi import Depends, FastAPI
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shop.settings import settings

engine = create_async_engine(str(settings.database_url), pool_size=2, max_overflow=0)
make_session = async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.connect() as connection:
        await connection.execute(text("select 1"))
    yield


app = FastAPI(lifespan=lifespan)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


async def session() -> AsyncIterator[AsyncSession]:
    async with make_session() as opened:
        yield opened


Opened = Annotated[AsyncSession, Depends(session)]


@app.post("/items", status_code=201)
async def create(name: str, session: Opened) -> int:
    item = Item(name=name)
    session.add(item)
    await session.commit()
    return item.id


@app.get("/items")
async def names(session: Opened) -> list[str]:
    await session.execute(text("select pg_sleep(0.005)"))
    return list(await session.scalars(select(Item.name).order_by(Item.id)))
"""


def write_shop(project: Project, app: str) -> None:
    """Add an application to a project; its database is on a server that nobody runs."""
    project.write("shop/__init__.py", "")
    project.write("shop/settings.py", SETTINGS)
    project.write("shop/app.py", app)


SOMEBODYS = (
    "postgresql+{driver}://shop:s3cret@db.example.invalid:5432/shop?application_name=shop"
)
"""The application's own database: no test may ever reach it, and no name server knows its host."""
