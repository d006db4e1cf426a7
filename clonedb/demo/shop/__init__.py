"""The application: products, the categories they belong to, and what customers think of them."""
