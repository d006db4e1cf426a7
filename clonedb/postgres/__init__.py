"""Speaking to a PostgreSQL server, whoever runs it."""
