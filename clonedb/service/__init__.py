"""`clonedb serve`: databases for tests over HTTP."""
