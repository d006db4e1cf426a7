"""Migrating a new database: Alembic and the seeds in an interpreter of their own."""
