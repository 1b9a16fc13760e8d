"""Signatures that show which files this user has written."""

import hmac
import os
import secrets
from pathlib import Path

from facereel.errors import UserError

_N_BYTES = 32


def sign(text: str) -> str:
    """Return the signature of a text by this user's key, in hexadecimal digits.

    The key is created at the first call: in facereel/key below XDG_CONFIG_HOME, or else below ~/.config.

    Args:
        text: the text to sign.

    Raises:
        UserError: if the key cannot be created or read.
    """
    try:
        path = _key_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            unfinished = path.with_name(f".key.{os.getpid()}")
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_N_BYTES))
            try:
                path.hardlink_to(unfinished)  # atomic, and keeps a key that another process made in the meantime
            except FileExistsError:
                pass
            finally:
                unfinished.unlink()
        return _signature(path, text)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot use the key that signs your files: {error}; XDG_CONFIG_HOME sets its folder"
        ) from error


def verify(text: str, signature: object) -> bool:
    """Return whether a signature is the one of `sign` for this text and this user.

    Args:
        text: the signed text.
        signature: the signature to check.
    """
    try:
        return hmac.compare_digest(_signature(_key_file(), text).encode(), str(signature).encode())
    except (OSError, ValueError, RuntimeError):
        return False


def _key_file() -> Path:
    # Without a home folder this is a RuntimeError.
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "facereel" / "key"


def _signature(key_file: Path, text: str) -> str:
    key = key_file.read_bytes()
    if len(key) != _N_BYTES:  # anyone could guess an empty key
        raise ValueError(f"{key_file} has {len(key)} bytes, not {_N_BYTES}")
    return hmac.new(key, text.encode(), "sha256").hexdigest()
