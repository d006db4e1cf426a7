"""What a test gets: one mode a name, each of which acquires a database for a test and releases it after."""
