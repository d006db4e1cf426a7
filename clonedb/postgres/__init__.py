"""Speaking to a PostgreSQL server, embedded or not."""
