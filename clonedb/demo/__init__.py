"""The sample shop: an ordinary application with models, migrations and tests, run by `clonedb demo`."""
