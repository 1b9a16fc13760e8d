"""`python -m facereel` is the command `facereel`."""

from facereel.cli import main

main()
