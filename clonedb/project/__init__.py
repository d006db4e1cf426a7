"""A project's files: where its migrations are and what they import, read without running any of it."""
