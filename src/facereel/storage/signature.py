"""Signatures that tell what this user made from what others made."""

import hmac
import os
import secrets
from pathlib import Path

from facereel.errors import UserError

_N_BYTES = 32


def sign(text: str) -> str:
    """Return hexadecimal digits for a text that only this user's key gives.

    The key is made where there is none: in facereel/key below XDG_CONFIG_HOME, or else below ~/.config.

    Raises:
        UserError: if the key cannot be made or read.
    """
    try:
        path = _key_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            unfinished = path.with_name(f".key.{os.getpid()}")
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_N_BYTES))
            try:
                path.hardlink_to(unfinished)  # whole, and not in place of one that another process made in the meantime
            except FileExistsError:
                pass
            finally:
                unfinished.unlink()
        return _signature(path, text)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the key that signs your files cannot be used: {error}; XDG_CONFIG_HOME says where it is"
        ) from (error)


def verify(text: str, signature: object) -> bool:
    """Whether `sign` returned this signature for this text and user."""
    try:
        return hmac.compare_digest(_signature(_key_file(), text).encode(), str(signature).encode())
    except (OSError, ValueError, RuntimeError):
        return False


def _key_file() -> Path:
    # Without a home folder this is a RuntimeError.
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "facereel" / "key"


def _signature(key_file: Path, text: str) -> str:
    key = key_file.read_bytes()
    if len(key) != _N_BYTES:  # an empty key is known to everybody
        raise ValueError(f"{key_file} has {len(key)} bytes, not {_N_BYTES}")
    return hmac.new(key, text.encode(), "sha256").hexdigest()
