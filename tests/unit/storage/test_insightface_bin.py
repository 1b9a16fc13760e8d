"""Verification sets of InsightFace: genuine forms are read, and nothing in a hostile one runs."""

import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from drawn_faces import write_python2_bin

from facereel.errors import UserError
from facereel.storage import insightface_bin
from facereel.storage.insightface_bin import read_insightface_bin

IMAGES = [bytes([i]) * (250 + i) for i in range(6)]  # shorter and longer than a short string
SAME = [True, False, True]


def refused(path, content, message):
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_insightface_bin(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path} ")


@pytest.mark.parametrize("arrays", [False, True])
def test_files_of_python_2_are_read(tmp_path, arrays):
    path = write_python2_bin(tmp_path / "lfw.bin", IMAGES, SAME, arrays)
    # It is what Python itself reads from it.
    images, same = pickle.loads(path.read_bytes(), encoding="bytes")
    assert [np.asarray(image).tobytes() if arrays else image for image in images] == IMAGES
    assert not arrays or (images[0].shape, images[0].dtype) == ((250, 1), np.uint8)
    found = read_insightface_bin(path)
    assert [bytes(image) for image in found[0]] == IMAGES
    assert found[1] == same == SAME


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("convert", [bytes, lambda image: np.frombuffer(image, np.uint8)])
def test_files_of_python_3_are_read(tmp_path, protocol, convert):
    content = pickle.dumps((list(map(convert, IMAGES)), SAME), protocol)
    (tmp_path / "a.bin").write_bytes(content)
    images, same = read_insightface_bin(tmp_path / "a.bin")
    assert [bytes(image) for image in images] == IMAGES
    assert same == SAME


def test_answers_may_be_numbers(tmp_path):
    (tmp_path / "a.bin").write_bytes(pickle.dumps((IMAGES, [1, 0, 1])))
    assert read_insightface_bin(tmp_path / "a.bin")[1] == SAME


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", ["images", "same", "all"])
def test_calls_are_refused_and_not_executed(tmp_path, protocol, place):
    target = tmp_path / "made"
    calls = [
        Call(os.mkdir, str(target)),
        Call(os.system, f"mkdir {target}"),
        Call(eval, f"__import__('os').mkdir({str(target)!r})"),
        Call(np.save, str(target), 1),
        Call(getattr, "", "join"),
    ]
    for call in calls:
        content = {"images": ([call, b""], [True]), "same": (IMAGES, [call] * 3), "all": call}[place]
        refused(
            tmp_path / "a.bin", pickle.dumps(content, protocol), "is not a verification set of InsightFace: it names"
        )
        assert not target.exists()


@pytest.mark.parametrize(
    ("content", "operation"),
    [
        (b"(S'mkdir made'\nios\nsystem\n.", "INST"),
        (b"(cos\nsystem\nS'mkdir made'\no.", "OBJ"),
        (b"\x80\x02cos\nsystem\nU\x01a\x85\x81.", "NEWOBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pabc\n.", "PERSID"),
        (b"\x80\x02U\x01aQ.", "BINPERSID"),
        (b"\x80\x02}.", "EMPTY_DICT"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
    ],
)
def test_unexpected_pickle_operations_are_refused(tmp_path, content, operation):
    refused(tmp_path / "a.bin", content, f"it has the operation {operation}, which a verification set does not need")


def test_sizes_beyond_the_file_allocate_no_memory(tmp_path):
    tracemalloc.start()
    path, most = tmp_path / "a.bin", 40 * 2**20
    huge = struct.pack("<Q", 2**36)
    for content in (
        b"\x80\x04\x8e" + huge + b"x.",  # BINBYTES8
        b"\x80\x05\x96" + huge + b"x.",  # BYTEARRAY8
        b"\x80\x04\x95" + huge + b"x.",  # FRAME
        pickle.dumps((["a"], [2**70])),
        pickle.dumps(([10**9, 10**9], [True])),  # bytes(10**9)
    ):
        refused(path, content, "is not a verification set of InsightFace: ")
        assert tracemalloc.get_traced_memory()[1] < most
    for content in (b"\x80\x02Nr\xff\xff\xff\x7f.", b"Np2147483647\n."):  # LONG_BINPUT, PUT
        refused(path, content, "it stores more objects than it has bytes")
    # Of one megabyte referred to a thousand times no copy is made, whether as bytes, by a call, or as a text.
    n = struct.pack("<Q", 2**20)
    for value, call in (
        (b"\x8e" + n + bytes(2**20), b"h\x00"),
        (b"\x96" + n + bytes(2**20), b"cnumpy.core.numeric\n_frombuffer\nh\x00\x85R"),
        (b"X" + n[:4] + bytes(2**20), b"c_codecs\nencode\nh\x00U\x06latin1\x86R"),
    ):
        path.write_bytes(b"\x80\x05" + value + b"q\x000](" + call * 1000 + b"e](" + b"\x88" * 500 + b"e\x86.")
        images, _ = read_insightface_bin(path)
        assert [len(image) for image in images] == [2**20] * 1000
        assert tracemalloc.get_traced_memory()[1] < most
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a verification set of InsightFace: "),
        (b"\xff\xd8\xff\xe0 a JPEG", "is not a verification set of InsightFace: "),
        (pickle.dumps((IMAGES, SAME))[:-9], "is not a verification set of InsightFace: "),
        (pickle.dumps((IMAGES, SAME[:2])), "it has 6 images for 2 pairs"),
        (pickle.dumps((IMAGES, [True, False, 2])), "an answer is neither true nor false"),
        (pickle.dumps((IMAGES, [True, False, "yes"])), "an answer is neither true nor false"),
        (pickle.dumps((["a"] * 6, SAME)), "it has str instead of bytes"),
        (pickle.dumps(([], [])), "it has no pairs"),
        (pickle.dumps((IMAGES, SAME, 1)), "too many values"),
        (pickle.dumps(([np.zeros(3), np.zeros(3)], [True])), "it has an array of 'f8' instead of bytes"),
        (pickle.dumps(([np.zeros(3, object)] * 2, [True])), "it has an array of 'O8' instead of bytes"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, message):
    refused(tmp_path / "a.bin", content, message)


def test_missing_and_huge_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"a\.bin cannot be read: No such file"):
        read_insightface_bin(tmp_path / "a.bin")
    monkeypatch.setattr(insightface_bin, "LARGEST_BIN", 10)
    refused(tmp_path / "a.bin", bytes(11), "has more than 10 bytes")
