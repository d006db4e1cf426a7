"""Bringing a used clone back to its template's exact contents, by undoing what the WAL says was written."""
