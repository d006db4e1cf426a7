"""SQLAlchemy connections, sent to the database that is meant: the clone under test, or the template being built."""
