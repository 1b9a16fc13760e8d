"""Exceptions that end a command: errors that the user can fix, and SIGTERM."""


class UserError(Exception):
    """An error that the user can fix. The message names the problem, its place and the fix."""


class Terminated(BaseException):
    """The process received SIGTERM, for example from SLURM. Like `KeyboardInterrupt`, it is not an `Exception`."""


class UntrustedModuleError(UserError):
    """A model or run names a class from a module that is not trusted.

    Args:
        message: where the module is named.
        module: name of the module; the command line adds the option that trusts it.
    """

    def __init__(self, message: str, module: str) -> None:
        super().__init__(message, module)
        self.module = module

    def __str__(self) -> str:
        return f"{self.args[0]}; if you know where it comes from, trust the module {self.module}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
