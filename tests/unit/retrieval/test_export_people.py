import os

import numpy as np
import pytest

from facereel.data import Skipped, read_folder
from facereel.errors import UserError
from facereel.retrieval.export_people import clip_name, export_people, folder_name, folder_names
from facereel.retrieval.track_index import Track

UNSAFE = ["../../etc", "a/b", "a\\b", ".hidden", "tab\there", "nul", "COM1.txt", "ends.", " both ", "é" * 200, 'q"?*']


def track(number, video="/films/a b.mp4", start_s=1.0):
    return Track(number + 1, video, number, start_s, start_s + 2.0, None, None, None, "source", None)


def crops_of(tracks):
    for one in tracks:
        yield one, [np.full((8, 8, 3), 20 * one.number + i, np.uint8) for i in range(2)]


@pytest.mark.parametrize("name", UNSAFE)
def test_folder_name_is_safe_and_visible(name, tmp_path):
    folder = folder_name(name)
    assert (tmp_path / folder).resolve().parent == tmp_path
    assert not folder.startswith(".")
    assert folder.isprintable()
    assert folder == folder.strip()
    assert not set(folder) & set('/\\:*?"<>|')
    assert folder[-1] != "."
    assert folder.split(".")[0].casefold() not in ("nul", "com1") or folder.endswith("_")
    assert len(folder.encode()) <= 130
    (tmp_path / folder).mkdir()


def test_simple_name_is_kept():
    assert folder_name("Ada Lovelace") == "Ada Lovelace"
    assert folder_name("Łukasz O'Neil-Öz 李") == "Łukasz O'Neil-Öz 李"


@pytest.mark.parametrize("name", ["", " ", ".", "..", "///", "\0"])
def test_name_without_valid_characters_raises(name):
    with pytest.raises(UserError, match="cannot be a folder name"):
        folder_name(name)


@pytest.mark.parametrize("names", [("a/b", "a?b"), ("Ada", "ada"), ("é", "e\u0301")])
def test_names_with_the_same_folder_raise(names):
    with pytest.raises(UserError, match="would share the folder"):
        folder_names(names)


def test_long_names_with_the_same_start_differ():
    assert len(set(folder_names(["x" * 150 + end for end in "ab"]).values())) == 2


def test_exported_folder_can_be_read_as_a_data_set(tmp_path):
    people = {"Ada": [track(0), track(1)], "Bo/2": [track(2)]}
    done = export_people(people, tmp_path, crops_of)
    assert (done.n_people, done.n_made, done.n_before, done.moved) == (2, 3, 0, {})
    skipped = Skipped()
    rows = list(read_folder(tmp_path, skipped))
    assert [row.person for row in rows] == ["Ada"] * 4 + ["Bo_2"] * 2
    assert len({row.clip for row in rows}) == 3
    assert not skipped.counts
    assert sorted(os.listdir(tmp_path)) == ["clips"]


def test_second_export_adds_new_clips_only(tmp_path):
    export_people({"Ada": [track(0)]}, tmp_path, crops_of)
    mine = tmp_path / "clips" / "Ada" / clip_name(track(0)) / "0000.jpg"
    mine.write_bytes(b"mine")
    (tmp_path / "clips" / "Ada" / "notes.txt").write_text("mine")
    done = export_people({"Ada": [track(0), track(1)]}, tmp_path, crops_of)
    assert (done.n_made, done.n_before) == (1, 1)
    assert mine.read_bytes() == b"mine"
    assert (tmp_path / "clips" / "Ada" / "notes.txt").read_text() == "mine"


def test_failed_clip_leaves_no_files(tmp_path, monkeypatch):
    def fail(tracks):
        yield from crops_of(tracks[:1])
        yield tracks[1], [np.zeros((8, 8, 3), np.uint8), np.zeros((0, 0, 3), np.uint8)]

    with pytest.raises(Exception, match="empty"):
        export_people({"Ada": [track(0), track(1)]}, tmp_path, fail)
    assert os.listdir(tmp_path / "clips" / "Ada") == [clip_name(track(0))]
    assert os.listdir(tmp_path) == ["clips"]


def test_clip_of_a_renamed_person_is_reported(tmp_path):
    export_people({"Ada": [track(0)]}, tmp_path, crops_of)
    done = export_people({"Bo": [track(0)]}, tmp_path, crops_of)
    assert done.moved == {f"Bo/{clip_name(track(0))}": "Ada"}


def test_file_in_place_of_a_folder_raises(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "Ada").write_text("a file")
    with pytest.raises(UserError, match="a file of that name exists"):
        export_people({"Ada": [track(0)]}, tmp_path, crops_of)


def test_clip_names_are_unique():
    names = {clip_name(track(0)), clip_name(track(0, "/other/a b.mp4")), clip_name(track(0, start_s=2.0))}
    assert len(names) == 3
    assert all(name.startswith("a_b-0000-") for name in names)


def test_renamed_video_is_not_exported_twice(tmp_path):
    before = track(0)._replace(content="9-abc")
    assert export_people({"Ada": [before]}, tmp_path, crops_of).n_made == 1
    after = before._replace(id=9, video="/archive/c.mp4")
    done = export_people({"Ada": [after, track(0, "/archive/c.mp4")]}, tmp_path, crops_of)
    assert (done.n_made, done.n_before, done.moved) == (1, 1, {})
    done = export_people({"Bo": [after]}, tmp_path, crops_of)
    assert done.moved == {f"Bo/{clip_name(after)}": "Ada"}
