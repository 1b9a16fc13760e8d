"""What ends a command: a mistake of the user's, and the signal that asks programs to end."""


class UserError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to do."""


class Terminated(BaseException):
    """SIGTERM came, as from SLURM or a machine that is taken away. Like `KeyboardInterrupt`, no `Exception`."""


class UntrustedModuleError(UserError):
    """A model or run names a class of a module that is not trusted.

    Args:
        message: what names the module, and where.
        module: the module; the command line tells how to trust it.
    """

    def __init__(self, message: str, module: str) -> None:
        super().__init__(message, module)
        self.module = module

    def __str__(self) -> str:
        return f"{self.args[0]}; if you know where it comes from, trust the module {self.module}"
