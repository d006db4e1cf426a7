"""Migrating a new database: the interpreter of its own that does it, started, asked and listened to."""
