"""The history of the shop's database, as Alembic runs it."""
