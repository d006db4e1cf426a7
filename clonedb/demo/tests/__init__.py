"""The shop's own tests. None of them cleans up: each has a database to itself."""
