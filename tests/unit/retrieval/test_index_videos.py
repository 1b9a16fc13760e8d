"""Films that are found and indexed in one go."""

import os
import shutil
from pathlib import Path

import pytest
from films import make_film

from facereel.errors import UserError
from facereel.retrieval import build_index
from facereel.retrieval.erase import erase_person, erase_video
from facereel.retrieval.index_videos import Work, index_videos, settings_for, tracks_folder
from facereel.retrieval.track_crops import read_crops
from facereel.retrieval.track_index import TrackIndex
from facereel.video import TrackSettings, find_tracks
from facereel.video.find_videos import find_videos
from facereel.video.ingest import ingest
from facereel.video.track_file import read_about, read_tracks, track_path

CAST = {"a/anna.mp4": ("Anna",), "both.mp4": ("Anna", "Cleo"), "room.mp4": ()}


def update(root, model, **work):
    out = root / "index"
    settings = settings_for(out, tracks_folder(out))
    return index_videos(find_videos([root / "films"]), out, model, settings, work=Work(**work))


@pytest.fixture(scope="module")
def made(tmp_path_factory, model):
    root = tmp_path_factory.mktemp("made")
    for name, people in CAST.items():
        make_film(root / "films" / name, *people, seconds=1)
    update(root, model)
    return root


@pytest.fixture
def world(made, model, tmp_path, monkeypatch):
    """A copy at the same place for all that is in the index; nothing is decoded or encoded."""
    monkeypatch.setattr("facereel.video.ingest.find_tracks", None)
    monkeypatch.setattr(build_index, "encode_clips", None)
    saved = shutil.copytree(made, tmp_path / "saved")
    index = TrackIndex(made / "index")
    for track in index.tracks():
        index.people.name([track.id], f"{Path(track.video).name} {track.number}")
    yield made
    shutil.rmtree(made)
    shutil.copytree(saved, made)


def names(root):
    return {(os.path.relpath(t.video, root / "films"), t.number): t.person for t in TrackIndex(root / "index").tracks()}


NAMES = {
    ("a/anna.mp4", 0): "anna.mp4 0",
    ("both.mp4", 0): "both.mp4 0",
    ("both.mp4", 1): "both.mp4 1",
}


def test_tracks_are_in_the_index_and_its_folder_can_be_copied(made, tmp_path):
    copy = shutil.copytree(made / "index", tmp_path / "elsewhere")
    index = TrackIndex(copy)
    assert {Path(track.source).parent for track in index.tracks()} == {copy / "tracks"}
    assert {Path(record.source).parent for record in index.records().values()} == {copy / "tracks"}
    assert {track.number: len(crops) > 0 for track, crops in read_crops(index.tracks())} == {0: True, 1: True}


def test_result_is_that_of_ingest_and_index(made, model, tmp_path):
    ingest(find_videos([made / "films"]), tmp_path / "tracks", TrackSettings())
    build_index.index_source(tmp_path / "tracks", tmp_path / "index", model)
    one, two = TrackIndex(made / "index"), TrackIndex(tmp_path / "index")
    assert {(t.video, t.number): one.vectors.code(t.id).tolist() for t in one.tracks()} == {
        (t.video, t.number): two.vectors.code(t.id).tolist() for t in two.tracks()
    }
    assert one.records().keys() == two.records().keys()


def test_each_video_can_be_searched_before_the_next_one_is_read(tmp_path, model, monkeypatch):
    for name in ("a.mp4", "b.mp4"):
        make_film(tmp_path / "films" / name, "Anna", seconds=1, seed=ord(name[0]))
    seen = []

    def watched(video, *arguments):
        seen.append(TrackIndex(tmp_path / "index").videos())
        return find_tracks(video, *arguments)

    monkeypatch.setattr("facereel.video.ingest.find_tracks", watched)
    shares = []
    update(tmp_path, model, advance=lambda n, of: shares.append((n, of)))
    assert seen == [[], [str(tmp_path / "films" / "a.mp4")]]
    assert sum(n for n, _ in shares) == shares[0][1] == 2


def test_second_run_reads_nothing(world, model):
    done = update(world, model)
    assert (done.index.n_videos, done.index.n_before, done.ingest.made) == (0, 3, {})


def test_videos_that_swap_names_keep_names_of_people(world, model):
    films = world / "films"
    (films / "both.mp4").rename(films / "x")
    (films / "a" / "anna.mp4").rename(films / "both.mp4")
    (films / "x").rename(films / "a" / "anna.mp4")
    assert update(world, model).index.n_videos == 0
    assert names(world) == {
        ("both.mp4", 0): "anna.mp4 0",
        ("a/anna.mp4", 0): "both.mp4 0",
        ("a/anna.mp4", 1): "both.mp4 1",
    }


def test_names_survive_lost_track_files_when_videos_swap(world, model, monkeypatch):
    monkeypatch.undo()
    shutil.rmtree(world / "index" / "tracks")
    monkeypatch.setattr(build_index, "encode_clips", None)
    test_videos_that_swap_names_keep_names_of_people(world, model)


def test_first_of_several_copies_is_listed_also_after_a_kill(tmp_path, model, monkeypatch):
    make_film(tmp_path / "films" / "z.mp4", "Anna", seconds=1)
    (tmp_path / "films" / "b").mkdir()
    shutil.copy(tmp_path / "films" / "z.mp4", tmp_path / "films" / "b" / "copy.mp4")
    films = find_videos([tmp_path / "films"])
    assert films[0].name == "z.mp4"
    ingest(films[:1], tmp_path / "index" / "tracks", TrackSettings())  # as if killed before it was indexed
    assert update(tmp_path, model).index.index.videos() == [str(tmp_path / "films" / "b" / "copy.mp4")]


def test_settings_of_an_index_are_kept(tmp_path, model):
    make_film(tmp_path / "films" / "a.mp4", "Anna", seconds=1)
    out, settings = tmp_path / "index", TrackSettings(fps=8, min_face=30)
    index_videos(find_videos([tmp_path / "films"]), out, model, settings)
    assert settings_for(out, tracks_folder(out)) == settings
    shutil.rmtree(out / "tracks")
    assert settings_for(out, tracks_folder(out), min_face=30) == settings
    with pytest.raises(UserError, match="was made with min_face 30, not 40"):
        settings_for(out, tracks_folder(out), min_face=40)
    assert settings_for(tmp_path / "new", tmp_path / "none", min_face=40).min_face == 40


def test_erased_video_and_its_copies_lose_their_crops(world, model):
    shutil.copy(world / "films" / "both.mp4", world / "films" / "copy.mp4")
    index = update(world, model).index.index
    assert len(list((world / "index" / "tracks").iterdir())) == 4
    assert erase_video(index, str(world / "films" / "both.mp4")) == 2
    left = [read_about(file)["video"] for file in (world / "index" / "tracks").iterdir()]
    assert sorted(left) == [str(world / "films" / name) for name in ("a/anna.mp4", "room.mp4")]


def test_erased_person_loses_crops_and_does_not_return(world, model):
    shutil.copy(world / "films" / "both.mp4", world / "films" / "copy.mp4")
    index = update(world, model).index.index
    assert erase_person(index, "both.mp4 0") == 1
    for name in ("both.mp4", "copy.mp4"):
        stored = [*read_tracks(track_path(world / "index" / "tracks", world / "films" / name))]
        assert [track.number for track in stored] == [1]
    assert update(world, model).index.n_videos == 0
    assert names(world) == {key: name for key, name in NAMES.items() if name != "both.mp4 0"}


def test_crops_outside_of_the_index_are_not_erased(made, model, tmp_path):
    ingest([made / "films" / "both.mp4"], tmp_path / "tracks", TrackSettings())
    index = build_index.index_source(tmp_path / "tracks", tmp_path / "index", model).index
    assert erase_video(index, str(made / "films" / "both.mp4")) == 2
    assert len(list((tmp_path / "tracks").iterdir())) == 1
