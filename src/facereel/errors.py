"""The one error that reaches a user as one line on stderr and exit code 2."""


class UserError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to do."""
