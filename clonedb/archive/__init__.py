"""A template as a file: dumped from one server, and restored on another."""
