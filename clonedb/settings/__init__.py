"""The settings: what there is to say, where it was said, and what came of it."""
