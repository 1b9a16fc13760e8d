"""Safe reading of InsightFace's verification sets, such as lfw.bin: pickled lists of images and of answers."""

import io
import pickle
import pickletools
from functools import cache
from pathlib import Path
from typing import Any

from facereel.errors import UserError

BIN_SUFFIX = ".bin"

# Size limit in bytes. The files of InsightFace have up to 14,000 images and 100 MB.
LARGEST_BIN = 2**31

# Allowed operations: build lists and tuples of text, bytes and numbers, and call what `find_class` allows.
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
    """Read a verification set written by InsightFace's scripts under Python 2 or 3.

    Nothing in the file is executed: only pickle operations that build lists of bytes and numbers are allowed. A NumPy
    array, which `cv2.imencode` returns for an image, is read as its bytes.

    Args:
        file: a pickle of two lists: the bytes of image files, two in a row for each pair; whether each pair shows one
            person.

    Returns:
        The 2 P image files and the P answers.

    Raises:
        UserError: if the file is missing or is not such a set.
    """
    try:
        if file.stat().st_size > LARGEST_BIN:
            raise UserError(f"{file} has more than {LARGEST_BIN:,} bytes: it is not a verification set of InsightFace")
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    try:
        return _unpickle(data)
    except Exception as error:  # a damaged pickle raises many kinds of errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file} is not a verification set of InsightFace: {reason[:160]}") from error


def _unpickle(data: bytes) -> tuple[list[bytes | bytearray], list[bool]]:
    _check_opcodes(data)
    images, same = _Unpickler(data).load()
    images = [image.content if isinstance(image, _Array) else _bytes_of(image) for image in images]
    if not all(type(answer) in (bool, int) and answer in (0, 1) for answer in same):
        raise ValueError("an answer is neither true nor false")
    if len(images) != 2 * len(same):
        raise ValueError(f"it has {len(images)} images for {len(same)} pairs")
    if not same:
        raise ValueError("it has no pairs")
    return images, [bool(answer) for answer in same]


def insightface_key(index: int) -> str:
    """Return the key of the image at an index of a verification set."""
    return f"{index:06}"


def _check_opcodes(data: bytes) -> None:
    """Refuse a pickle by its operations, without running them.

    Raises:
        ValueError: for an operation that is not allowed, or a size beyond the file, for which memory would be reserved.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise ValueError(f"it has the operation {opcode.name}, which a verification set does not need")
        if opcode.name in _STORES and isinstance(argument, int) and argument > len(data):
            raise ValueError("it stores more objects than it has bytes")


class _Array:
    """Stand-in for a NumPy array; keeps the bytes without a copy, since a small file may refer to them often."""

    content: bytes | bytearray = b""

    def __setstate__(self, state: Any) -> None:
        self.content = _bytes_of(state[-1])


class _DataType:
    """Stand-in for the data type of an array, which must be bytes."""

    def __init__(self, name: bytes | str, *_: object) -> None:
        if name not in ("u1", b"u1"):
            raise ValueError(f"it has an array of {name!r} instead of bytes")

    def __setstate__(self, state: object) -> None:
        pass


def _from_buffer(buffer: object, *_: object) -> _Array:
    array = _Array()
    array.content = _bytes_of(buffer)
    return array


def _bytes_of(value: object) -> bytes | bytearray:
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"it has {type(value).__name__} instead of bytes")
    return value


class _Unpickler(pickle.Unpickler):
    """Unpickler that calls only its stand-ins, never the objects that a pickle names."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._stand_ins: dict[str, Any] = {
            "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
            "numpy.core.numeric._frombuffer": _from_buffer,
            "numpy.ndarray": _Array,
            "numpy.dtype": _DataType,
            # How Python 3 writes bytes for Python 2. Cached, since a small file may refer to one text often.
            "_codecs.encode": cache(lambda text, _: text.encode("latin1")),
        }

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # the name in NumPy 2
        if path not in self._stand_ins:
            raise ValueError(f"it names {path}, which is not allowed")
        return self._stand_ins[path]
