"""What runs in the interpreter that migrates; it imports nothing of the package around it."""
