"""The fingerprint of a video, and missing files."""

import hashlib
import os

import numpy as np
import pytest

from facereel.video.content import WHOLE_BYTES, content_of, is_folder_gone, is_gone


@pytest.fixture(scope="module")
def large():
    return np.random.default_rng(0).integers(0, 256, 3 * WHOLE_BYTES + 5, np.uint8).tobytes()


def written(path, content):
    path.write_bytes(content)
    return content_of(path)


@pytest.mark.parametrize("size", [0, 1, WHOLE_BYTES])
def test_small_file_is_hashed_completely(tmp_path, large, size):
    content = large[:size]
    assert written(tmp_path / "a", content) == f"{size}-{hashlib.sha256(content).hexdigest()}"


def test_large_file_is_hashed_at_its_ends_and_blocks_between(tmp_path, large):
    size, block = len(large), 2**16
    first, last = large[: 2**20], large[-(2**20) :]
    room = size - 2 * 2**20 - block
    starts = [2**20 + room * i // 31 for i in range(32)]
    blocks = [large[start : start + block] for start in starts]
    digest = hashlib.sha256(b"".join([first, *blocks, last])).hexdigest()
    before = written(tmp_path / "a", large)
    assert before == f"{size}-{digest}"
    for place in (0, 2**20 - 1, starts[1], starts[16] + 9, starts[31] + block - 1, size - 1):
        changed = bytearray(large)
        changed[place] ^= 1
        assert written(tmp_path / "b", changed) != before
    changed = bytearray(large)
    changed[starts[1] - 1] ^= 1  # what the docstring warns of
    assert written(tmp_path / "b", changed) == before
    assert written(tmp_path / "b", large + b"x") != before


def test_hashing_time_does_not_grow_with_file_size(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**41)
    assert content_of(tmp_path / "sparse").startswith(f"{2**41}-")


def test_missing_files_and_folders_are_detected(tmp_path, monkeypatch):
    (tmp_path / "film").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    gone = ["no", "link", "film/below", "empty/no", "no/no"]
    assert [name for name in [*gone, "film", "empty"] if is_gone(tmp_path / name)] == gone
    assert [name for name in gone if is_folder_gone(tmp_path / name)] == ["film/below", "empty/no", "no/no"]

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    assert not is_gone("no")
