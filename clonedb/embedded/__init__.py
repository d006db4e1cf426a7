"""Running a PostgreSQL server of one's own: binaries, data, leases, and the process that keeps it."""
