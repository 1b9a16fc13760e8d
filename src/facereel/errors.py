"""What ends a command: a mistake of the user's, and the signal that asks programs to end."""


class UserError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to do."""


class Terminated(BaseException):
    """SIGTERM came, as from SLURM or a machine that is taken away. Like `KeyboardInterrupt`, no `Exception`."""
