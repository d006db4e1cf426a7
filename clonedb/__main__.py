"""`python -m clonedb`, where the `clonedb` script is not on PATH."""

from clonedb.cli import main

main(prog_name="clonedb")
