import itertools
import json
import sqlite3
import subprocess
import textwrap
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from fast_processes import run_script

from facereel.errors import UserError
from facereel.functional import pack_codes
from facereel.retrieval import code_segments
from facereel.retrieval.backends.code_part import CodePart, read_part, write_part
from facereel.retrieval.code_index import CodeIndex
from facereel.retrieval.code_segments import CodeSegments
from facereel.retrieval.track_database import TrackDatabase
from facereel.retrieval.track_index import NewTrack, TrackIndex, VideoRecord

N_BITS = 48


def code(seed):
    return torch.rand(N_BITS, generator=torch.Generator().manual_seed(seed)) > 0.5


def add(index, video, n_tracks):
    """Add a video whose codes follow from its number."""
    tracks = [NewTrack(i, 0.0, 1.0, None, code(1000 * video + i), b"image") for i in range(n_tracks)]
    index.upsert_video(VideoRecord(f"/{video}.mp4", "stamp", None, "source"), tracks)


def files(index):
    return sorted(path.name for path in index.folder.glob("codes/*"))


def sizes(index):
    """Numbers of codes in the files that the database lists."""
    assert sorted(f"{name}.bin" for name, _, _ in index.about["segments"]) == files(index)
    return [n_codes for _, n_codes, _ in index.about["segments"]]


def assert_complete(index, folder=None):
    """Compare the codes that are searched with those in the database."""
    opened = TrackIndex(folder or index.folder)
    codes = opened.codes()
    stored = dict(zip(codes.ids.tolist(), codes.packed.tolist(), strict=True))
    with closing(sqlite3.connect(opened.folder / "index.sqlite")) as database:
        expected = {id_: list(packed) for id_, packed in database.execute("SELECT id, code FROM tracks")}
    assert stored == expected
    assert len(opened) == len(expected)


@pytest.fixture
def index(tmp_path, model):
    index = TrackIndex.create(tmp_path / "index", model, {"detector": "mtcnn", "size": 200, "margin": 1.4})
    for video in range(4):
        add(index, video, 6)
    return index


def test_saved_codes_are_mapped_not_read_from_the_database(index, monkeypatch):
    index.save_codes()
    assert sizes(index) == [24]
    unpack, read = TrackDatabase.unpack, []
    monkeypatch.setattr(TrackDatabase, "unpack", lambda self, rows, n: read.extend(rows) or unpack(self, rows, n))
    again = TrackIndex(index.folder)
    codes = again.codes()
    assert isinstance(codes, CodeIndex)
    assert not codes._parts[0].codes.flags.owndata
    assert again.search(code(2003), 1)[0].track.video == "/2.mp4"
    assert read == []


def test_a_new_video_is_appended_without_rewriting_the_rest(index):
    index.save_codes()
    (name,) = files(index)
    before = (index.folder / "codes" / name).stat()
    add(index, 9, 3)
    index.save_codes()
    assert sizes(index) == [24, 3]
    after = (index.folder / "codes" / name).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert_complete(index)
    index.save_codes()
    assert sizes(index) == [24, 3]


def test_many_added_codes_are_saved_while_videos_are_added(index, monkeypatch):
    monkeypatch.setattr("facereel.retrieval.code_cache._MOST_UNSAVED", 10)
    for video in range(10, 13):
        add(index, video, 6)
    assert sizes(index) == [30, 12]
    add(index, 13, 6)
    assert sizes(index) == [30, 12]
    assert_complete(index)


def test_small_files_are_merged_so_that_there_are_few(index):
    index.save_codes()
    for video in range(10, 50):
        add(index, video, 2)
        index.save_codes()
        held = sizes(index)
        assert all(a >= 2 * b for a, b in itertools.pairwise(held))
    assert sum(sizes(index)) == 24 + 80
    assert len(sizes(index)) <= 5
    assert_complete(index)


def test_erased_codes_are_zeros_in_the_file_and_dropped_when_merged(index):
    index.save_codes()
    (name,) = files(index)
    packed = pack_codes(code(1002)[None]).numpy().tobytes()
    content = (index.folder / "codes" / name).read_bytes()
    assert packed in content
    searching = TrackIndex(index.folder)
    searching.codes()
    index.remove_video("/1.mp4")
    assert len(searching) == len(index)
    index.save_codes()
    for path in index.folder.glob("codes/*"):
        assert packed not in path.read_bytes()
    assert_complete(index)


def test_few_erased_codes_are_overwritten_in_place(index):
    index.save_codes()
    (name,) = files(index)
    with closing(sqlite3.connect(index.folder / "index.sqlite")) as database, database:
        database.execute("INSERT INTO erased_codes VALUES (8), (9)")
        database.execute("DELETE FROM tracks WHERE id IN (8, 9)")
    TrackIndex(index.folder).save_codes()
    assert files(index) == [name]
    part = read_part(index.folder / "codes" / name, 24, 6)
    assert np.flatnonzero(~part.codes.any(axis=1)).tolist() == [7, 8]
    assert_complete(index)
    for video in range(20, 22):
        add(index, video, 6)
        index.save_codes()
    assert sizes(index) == [34]  # merged without them
    with closing(sqlite3.connect(index.folder / "index.sqlite")) as database:
        assert database.execute("SELECT * FROM erased_codes").fetchall() == []


@pytest.mark.parametrize("harm", ["absent", "half", "folder"])
def test_missing_or_damaged_files_are_made_again(index, harm):
    index.save_codes()
    file = index.folder / "codes" / files(index)[0]
    if harm == "absent":
        file.unlink()
    elif harm == "half":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        file.unlink()
        file.parent.rmdir()
    assert_complete(index)
    add(index, 7, 2)
    TrackIndex(index.folder).save_codes()
    assert sizes(index) == [26]
    assert_complete(index)


def test_files_of_another_copy_of_the_index_are_not_read(index, tmp_path):
    index.save_codes()
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", index.folder, other], check=True)
    add(index, 7, 2)
    index.save_codes()
    for path in other.glob("codes/*"):
        path.unlink()
    for path in index.folder.glob("codes/*"):
        (other / "codes" / path.name).write_bytes(path.read_bytes())
    assert_complete(index, other)


def test_an_index_of_an_earlier_version_is_read_and_saved(index):
    with closing(sqlite3.connect(index.folder / "index.sqlite")) as database, database:
        database.execute("DROP TABLE erased_codes")
        database.execute("DELETE FROM about WHERE name = 'segments'")
    assert_complete(index)
    index.remove_video("/1.mp4")
    assert_complete(index)
    with closing(sqlite3.connect(index.folder / "index.sqlite")) as database, database:
        database.execute("DROP TABLE erased_codes")
    index.save_codes()
    assert sizes(index) == [18]
    assert_complete(index)


@pytest.mark.parametrize(
    "segments",
    [
        [["../x", 1, 1]],
        [["a" * 32, -1, 1]],
        [["a" * 32, 1]],
        5,
        [["a" * 32, "1", 1]],
        [["a" * 32, 1.0, 1]],
        [["a" * 32, 1, 2**63]],
        [[None, 1, 1]],
    ],
)
def test_invalid_list_of_files_is_reported_as_damage(index, segments):
    with closing(sqlite3.connect(index.folder / "index.sqlite")) as database, database:
        database.execute("INSERT OR REPLACE INTO about VALUES ('segments', ?)", (json.dumps(segments),))
    with pytest.raises(UserError, match="the list of its files of codes is invalid"):
        TrackIndex(index.folder).codes()


def test_unsaved_codes_beyond_a_limit_are_written_before_they_are_loaded(index, monkeypatch):
    monkeypatch.setattr(code_segments, "_MOST_UNSAVED", 10)
    assert len(TrackIndex(index.folder)) == 24
    assert sizes(index) == [24]


def test_codes_of_a_read_only_index_are_loaded_without_writing(index, monkeypatch):
    monkeypatch.setattr(code_segments, "_MOST_UNSAVED", 10)

    def refuse(path):  # root may write to any folder
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(code_segments, "atomic_write", refuse)
    assert len(TrackIndex(index.folder)) == 24
    assert files(index) == []


def test_files_are_replaced_only_if_the_codes_are_still_the_same(index, monkeypatch):
    index.save_codes()
    segments = CodeSegments(TrackDatabase(index.folder))
    original, changes = segments._write, iter([lambda: index.save_codes(), lambda: None])
    add(index, 8, 3)

    def write(*arguments):
        written = original(*arguments)
        monkeypatch.setattr(code_segments, "file_lock", lambda *a, **k: threading.Lock())
        next(changes)()  # another process without locks, which writes the same codes first
        return written

    monkeypatch.setattr(segments, "_write", write)
    segments.save()
    assert sizes(index) == [24, 3]
    assert_complete(index)


def save_and_wait_for_merge(index):
    index.save_codes()
    wait_for_merge()


def wait_for_merge():
    for thread in threading.enumerate():
        if thread.name == "merge files of codes":
            thread.join(timeout=30)
            assert not thread.is_alive()


def test_large_files_are_merged_in_a_thread_while_others_append_and_erase(index, monkeypatch):
    index.save_codes()
    monkeypatch.setattr(code_segments, "_MOST_AT_ONCE", 0)
    write, copied, continues = write_part, threading.Event(), threading.Event()

    def slow(*arguments):
        n_codes = write(*arguments)
        if threading.current_thread() is not threading.main_thread():
            copied.set()
            assert continues.wait(30)
        return n_codes

    monkeypatch.setattr(code_segments, "write_part", slow)
    add(index, 9, 200)
    index.save_codes()
    assert copied.wait(30)
    assert [n_codes for _, n_codes, _ in index.about["segments"]] == [24, 200]
    other = TrackIndex(index.folder)  # another process, and then this one, while the thread merges
    for one, video in ((other, 10), (index, 11)):
        add(one, video, 1)
        one.remove_video(f"/{video - 9}.mp4")
        one.save_codes()
        assert_complete(index)
    assert [n_codes for _, n_codes, _ in index.about["segments"]] == [24, 200, 1, 1]
    erased = [pack_codes(code(1000 * video)[None]).numpy().tobytes() for video in (1, 2)]
    continues.set()
    wait_for_merge()
    assert sum(sizes(index)) == 24 + 200 + 2
    assert len(sizes(index)) == 2
    for path in index.folder.glob("codes/*"):
        assert not any(packed in path.read_bytes() for packed in erased)
    assert_complete(index)


def test_full_disk_while_merging_in_a_thread_is_reported_and_loses_nothing(index, monkeypatch):
    index.save_codes()
    monkeypatch.setattr(code_segments, "_MOST_AT_ONCE", 0)
    write = CodeSegments._write

    def fail(self, n_codes, *arguments):
        if threading.current_thread() is not threading.main_thread():
            raise OSError(28, "No space left on device")
        return write(self, n_codes, *arguments)

    monkeypatch.setattr(CodeSegments, "_write", fail)
    add(index, 9, 20)
    with pytest.warns(UserWarning, match="cannot merge the files of codes in .*No space left on device"):
        save_and_wait_for_merge(index)
    assert sizes(index) == [24, 20]
    assert_complete(index)


def test_codes_of_another_search_backend_leave_no_files(index):
    index.save_codes()
    index.set_backend("ivf")
    index.save_codes()
    assert files(index) == []
    index.set_backend("flat")
    assert_complete(index)
    index.save_codes()
    assert sizes(index) == [24]
    assert not list(index.folder.glob("codes-*"))


KILLED = """
    import os, sys
    from facereel.retrieval import code_segments
    from facereel.retrieval.code_segments import CodeSegments
    from facereel.retrieval.track_index import TrackIndex
    sys.path.insert(0, {here!r})
    from test_code_segments import add

    name, folder = sys.argv[1:3]
    owner = CodeSegments if hasattr(CodeSegments, name) else code_segments
    original = getattr(owner, name)

    def die(*arguments, **named):
        if arguments and sys.argv[3] == "after":
            original(*arguments, **named)
        os.kill(os.getpid(), 9)

    code_segments._MOST_AT_ONCE = int(sys.argv[4])
    index = TrackIndex(folder)
    setattr(owner, name, die)
    index.remove_video("/2.mp4")
    add(index, 30, 20)
    index.save_codes()
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "most_at_once"),
    [
        ("write_part", 100),
        ("_replace", 100),
        ("overwrite", 100),
        ("_merge", 100),
        ("_remove_unused", 100),
        ("_merge_large", 0),  # merges in a thread
    ],
)
def test_a_kill_while_appending_or_merging_loses_nothing(index, name, most_at_once, when):
    index.save_codes()
    script = textwrap.dedent(KILLED).format(here=str(Path(__file__).parent))
    assert run_script(script, name, index.folder, when, most_at_once) == -9
    assert_complete(index)
    TrackIndex(index.folder).save_codes()
    assert sum(sizes(index)) == 38
    assert_complete(index)


@pytest.mark.parametrize("n_codes", [0, 1, 1000])
def test_written_parts_are_read_again(tmp_path, n_codes, monkeypatch):
    monkeypatch.setattr("facereel.retrieval.backends.code_part._MOVED_AT_ONCE", 64)
    random = np.random.default_rng(0)
    ids, codes = np.arange(n_codes) * 3, random.integers(256, size=(n_codes, 7), dtype=np.uint8)
    part = CodePart(ids, codes).without(ids[::4])
    assert write_part(tmp_path / "part", n_codes, 7, part.blocks(100)) == part.n_codes
    for mapped in (True, False):
        again = read_part(tmp_path / "part", part.n_codes, 7, mapped)
        assert (again.ids.tolist(), again.codes.tolist()) == tuple(array.tolist() for array in part.kept())
    with pytest.raises(ValueError, match="does not have"):
        read_part(tmp_path / "part", part.n_codes + 1, 7)
