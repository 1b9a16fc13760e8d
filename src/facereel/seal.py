"""A seal on what this user made, to tell it from what strangers made."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from facereel.errors import UserError

_N_BYTES = 32


def seal(text: str) -> str:
    """Hexadecimal digits that go with a text, and that only who has this user's key can find.

    The key is made where there is none: in facereel/key below XDG_CONFIG_HOME, or else below ~/.config.

    Raises:
        UserError: if the key cannot be made or read.
    """
    try:
        path = _key_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            beside = path.with_name(f".key.{os.getpid()}")
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_N_BYTES))
            try:
                os.link(beside, path)  # whole, and not in place of one that another process has made meanwhile
            except FileExistsError:
                pass
            finally:
                beside.unlink()
        return _seal(path, text)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the key of what you make cannot be used: {error}; XDG_CONFIG_HOME says where it is"
        ) from error


def is_sealed(text: str, its_seal: object) -> bool:
    """Whether `seal` gave this user that seal for this text."""
    try:
        return hmac.compare_digest(_seal(_key_file(), text).encode(), str(its_seal).encode())
    except (OSError, ValueError, RuntimeError):
        return False


def _key_file() -> Path:
    # Without a home folder this is a RuntimeError.
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "facereel" / "key"


def _seal(key_file: Path, text: str) -> str:
    key = key_file.read_bytes()
    if len(key) != _N_BYTES:  # anybody knows that of no bytes
        raise ValueError(f"{key_file} has {len(key)} bytes, not {_N_BYTES}")
    return hmac.new(key, text.encode(), "sha256").hexdigest()
