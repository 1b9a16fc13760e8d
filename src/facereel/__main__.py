"""`python -m facereel` is the command `facereel`."""

from facereel.cli.main import main

if __name__ == "__main__":
    main()
