"""Client sessions that stay open from test to test: kept, watched, reset, and told of when they leak."""
