"""Template databases: found, built, published, and what their comments say."""
