"""A project's files: where its migrations are, what they import, and the fingerprint of it all."""
