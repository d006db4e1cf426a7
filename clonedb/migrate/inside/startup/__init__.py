"""A directory for PYTHONPATH: what each Python process below the command of `migrate` finds first."""
