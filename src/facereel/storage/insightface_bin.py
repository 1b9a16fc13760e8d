"""InsightFace's verification sets, such as lfw.bin: pickled lists of images and of answers, read without trust."""

import io
import pickle
import pickletools
from functools import cache
from pathlib import Path
from typing import Any

from facereel.errors import UserError

BIN_SUFFIX = ".bin"

# Largest file in bytes. The files of InsightFace have up to 14,000 images and 100 MB.
LARGEST_BIN = 2**31

# What unpickling may do: build lists and tuples of texts, bytes and numbers, and call what `find_class` allows.
_OPCODES = frozenset(
    (
        *(
            "PROTO",
            "FRAME",
            "STOP",
            "MARK",
            "POP",
            "EMPTY_LIST",
            "LIST",
            "APPEND",
            "APPENDS",
            "EMPTY_TUPLE",
            "TUPLE",
            "TUPLE1",
            "TUPLE2",
            "TUPLE3",
        ),
        *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
        *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    )
)
_STORES = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))


def read_insightface_bin(file: Path) -> tuple[list[bytes | bytearray], list[bool]]:
    """Read a verification set as InsightFace's scripts write it, by Python 2 or 3.

    Nothing in the file is executed: of a pickle's operations only those run that build lists of bytes and numbers. An
    array of NumPy, in which `cv2.imencode` returns an image, is read as its bytes.

    Args:
        file: a pickle of two lists: image files' bytes, two in a row for each pair; whether each pair is one person.

    Returns:
        2 P image files and P answers.

    Raises:
        UserError: if the file is absent or anything else.
    """
    try:
        if file.stat().st_size > LARGEST_BIN:
            raise UserError(f"{file} has more than {LARGEST_BIN:,} bytes: it is not a verification set of InsightFace")
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        _check_opcodes(data)
        images, same = _Unpickler(data).load()
        images = [image.content if isinstance(image, _Array) else _bytes_of(image) for image in images]
        if not all(type(answer) in (bool, int) and answer in (0, 1) for answer in same):
            raise ValueError("an answer is neither true nor false")
        if len(images) != 2 * len(same):
            raise ValueError(f"it has {len(images)} images for {len(same)} pairs")
        if not same:
            raise ValueError("it has no pairs")
    except Exception as error:  # a damaged pickle ends in errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file} is not a verification set of InsightFace: {reason[:160]}") from error
    return images, [bool(answer) for answer in same]


def insightface_key(index: int) -> str:
    """The key of the image at an index of a verification set."""
    return f"{index:06}"


def _check_opcodes(data: bytes) -> None:
    """Refuse a pickle by its operations, without running them; also sizes beyond the file, which would be reserved."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise ValueError(f"it has the operation {opcode.name}, which such a file does not need")
        if opcode.name in _STORES and isinstance(argument, int) and argument > len(data):
            raise ValueError("it stores more objects than it has bytes")


class _Array:
    """Stands for an array of NumPy: keeps its bytes, without a copy, since a small file may refer to them often."""

    content: bytes | bytearray = b""

    def __setstate__(self, state: Any) -> None:
        self.content = _bytes_of(state[-1])


class _DataType:
    """Stands for the data type of an array, which must be of bytes."""

    def __init__(self, name: bytes | str, *_: object) -> None:
        if name not in ("u1", b"u1"):
            raise ValueError(f"it has an array of {name!r}, not of bytes")

    def __setstate__(self, state: object) -> None:
        pass


def _from_buffer(buffer: object, *_: object) -> _Array:
    array = _Array()
    array.content = _bytes_of(buffer)
    return array


def _bytes_of(value: object) -> bytes | bytearray:
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"it has {type(value).__name__} in place of bytes")
    return value


class _Unpickler(pickle.Unpickler):
    """Calls nothing that a pickle names, only what stands for it here."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._stand_ins: dict[str, Any] = {
            "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
            "numpy.core.numeric._frombuffer": _from_buffer,
            "numpy.ndarray": _Array,
            "numpy.dtype": _DataType,
            # How Python 3 writes bytes for Python 2. A small file may ask for one text often.
            "_codecs.encode": cache(lambda text, _: text.encode("latin1")),
        }

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # as NumPy 2 calls it
        if path not in self._stand_ins:
            raise ValueError(f"it names {path}, which is not run")
        return self._stand_ins[path]
