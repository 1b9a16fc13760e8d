"""Films that are moved, renamed, copied, touched or deleted after they were indexed."""

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from films import make_film

from facereel.retrieval import build_index as module
from facereel.retrieval import milvus_queue, track_database
from facereel.retrieval.build_index import index_source
from facereel.retrieval.moved_videos import Absent, absent_videos, remove_absent
from facereel.retrieval.track_database import connect
from facereel.retrieval.track_index import TrackIndex, Within
from facereel.video import TrackSettings
from facereel.video.find_videos import find_videos
from facereel.video.ingest import ingest

SETTINGS = TrackSettings()
CAST = {"anna.mp4": ("Anna",), "both.mp4": ("Anna", "Cleo"), "room.mp4": ()}


class World:
    """A folder of films with tracks and an index, brought up to date by `update`."""

    before: dict[int, tuple[Any, ...]]  # what `held` gave before a test began

    def __init__(self, root, model):
        self.films, self.tracks, self.folder, self.model = root / "films", root / "tracks", root / "index", model
        self.done = self.update()
        index = self.index
        self.ids = {(Path(t.video).name, t.number): t.id for t in index.tracks()}
        index.people.name([self.ids["anna.mp4", 0]], "Anna")
        index.people.name([self.ids["both.mp4", 1]], "Cleo")
        index.set_clusters({id_: id_ for id_ in self.ids.values()})

    @property
    def index(self):
        return TrackIndex(self.folder)

    def update(self, *more):
        ingest(find_videos([self.films, *more]), self.tracks, SETTINGS)
        self.done = index_source(self.tracks, self.folder, self.model)
        return self.done

    def held(self):
        """The record of each track by id, with the path of its video below the films."""
        return {
            t.id: (os.path.relpath(t.video, self.films), t.number, t.person, t.cluster, t.thumbnail.read_bytes())
            for t in self.index.tracks()
        }

    def changed(self, **paths):
        """What is expected once films have new names; `__` stands for a dot."""
        names = {old.replace("__", "."): new for old, new in paths.items()}
        return {id_: (names.get(row[0], row[0]), *row[1:]) for id_, row in self.before.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory, model):
    """A world, and a copy of its folders."""
    root = tmp_path_factory.mktemp("world")
    for name, people in CAST.items():
        make_film(root / "films" / name, *people, seconds=1)
    world = World(root, model)
    return world, shutil.copytree(root, tmp_path_factory.mktemp("saved") / "world")


@pytest.fixture
def world(made, monkeypatch):
    """As it was made, and nothing is decoded or encoded from now on."""
    world, saved = copy(made[0]), made[1]
    shutil.rmtree(world.films.parent)
    shutil.copytree(saved, world.films.parent)
    world.before = world.held()
    monkeypatch.setattr("facereel.video.ingest.find_tracks", None)
    monkeypatch.setattr(module, "encode_clips", None)
    return world


def test_renamed_video_keeps_tracks_names_and_groups(world):
    (world.films / "anna.mp4").rename(world.films / "Anna, 2024.mp4")
    done = world.update()
    assert (done.n_videos, done.n_before, done.bad) == (0, 3, {})
    assert done.moved == {str(world.films / "Anna, 2024.mp4"): str(world.films / "anna.mp4")}
    assert world.held() == world.changed(anna__mp4="Anna, 2024.mp4")
    assert world.index.videos() == sorted(str(path) for path in world.films.iterdir())
    sources = {t.source for t in world.index.tracks()}
    assert all(Path(source).is_file() for source in sources)  # the crops are found where they are now
    assert world.update().moved == {}


def test_moved_folder_keeps_everything(world):
    world.films.rename(world.films.with_name("archive"))
    world.films = world.films.with_name("archive")
    done = world.update()
    assert (done.n_videos, len(done.moved)) == (0, 3)
    assert world.held() == world.before
    assert len(world.index.search(world.index.vectors.code(1), 9, within=Within(folder=str(world.films)))) == 3


def test_videos_that_swap_names(world):
    (world.films / "anna.mp4").rename(world.films / "aside")
    (world.films / "both.mp4").rename(world.films / "anna.mp4")
    (world.films / "room.mp4").rename(world.films / "both.mp4")
    (world.films / "aside").rename(world.films / "room.mp4")
    done = world.update()
    assert (done.n_videos, len(done.moved)) == (0, 3)
    assert world.held() == world.changed(anna__mp4="room.mp4", both__mp4="anna.mp4")


def test_video_that_takes_the_name_of_a_deleted_one(world):
    (world.films / "both.mp4").rename(world.films / "anna.mp4")
    world.update()
    expected = world.changed(both__mp4="anna.mp4")
    del expected[world.ids["anna.mp4", 0]]
    assert world.held() == expected
    assert len(world.index.codes()) == len(world.index) == 2
    assert world.index.videos() == [str(world.films / name) for name in ("anna.mp4", "room.mp4")]


def test_names_come_back_with_a_video_that_is_found_after_another_took_its_path(world, monkeypatch):
    """Cameras use file names again: a film is moved to the archive, and the next one gets its name."""
    monkeypatch.undo()
    archive, people = world.films.with_name("archive"), world.index.people
    anna, cleo = world.ids["anna.mp4", 0], world.ids["both.mp4", 1]
    people.name([anna], "Anna")
    people.reject([anna], "Cleo")
    people.differ(*[t.cluster for t in world.index.tracks([anna, cleo])])
    archive.mkdir()
    (world.films / "anna.mp4").rename(archive / "anna.mp4")
    make_film(world.films / "new.mp4", "Dora", seconds=1).rename(world.films / "anna.mp4")
    world.update()  # of the archive nothing is known yet
    assert {t.person for t in world.index.tracks() if t.video.endswith("anna.mp4")} == {None}
    assert (people.rejected(), people.pairs(False)) == (set(), [])
    world.update(archive)
    (found,) = [t for t in world.index.tracks() if t.video == str(archive / "anna.mp4")]
    assert found.person == "Anna"
    assert people.rejected() == {(found.id, "Cleo")}
    assert people.pairs(False) == [(cleo, found.id)]


@pytest.mark.parametrize("kind", ["moved onto it", "written over it", "copied onto it"])
def test_names_of_a_replaced_video_come_back_with_it(world, monkeypatch, kind):
    monkeypatch.undo()
    saved = shutil.copy(world.films / "anna.mp4", world.films.with_name("saved.mp4"))
    if kind == "moved onto it":
        (world.films / "both.mp4").replace(world.films / "anna.mp4")
    elif kind == "written over it":
        make_film(world.films / "new.mp4", "Dora", seconds=1).replace(world.films / "anna.mp4")
    else:
        shutil.copy(world.films / "both.mp4", world.films / "anna.mp4")
    world.update()
    assert "Anna" not in {t.person for t in world.index.tracks()}
    world.update(Path(saved))
    assert [t.person for t in world.index.tracks() if t.video == str(saved)] == ["Anna"]


@pytest.mark.parametrize("erase", [lambda index, film: index.remove_person("Anna"), TrackIndex.remove_video])
def test_erased_names_do_not_come_back(world, monkeypatch, erase):
    monkeypatch.undo()
    saved = shutil.copy(world.films / "anna.mp4", world.films.with_name("saved.mp4"))
    make_film(world.films / "new.mp4", "Dora", seconds=1).replace(world.films / "anna.mp4")
    world.update()
    erase(world.index, str(world.films / "anna.mp4"))
    assert b"Anna" not in (world.folder / "index.sqlite").read_bytes()
    world.update(Path(saved))
    assert [t.person for t in world.index.tracks() if t.video == str(saved)] == [None]


def test_tracks_ingested_again_elsewhere_are_recognized(world, monkeypatch):
    monkeypatch.undo()
    (world.films / "anna.mp4").rename(world.films / "new.mp4")
    shutil.rmtree(world.tracks)
    world.tracks = world.tracks.with_name("again")
    monkeypatch.setattr(module, "encode_clips", None)
    assert world.update().n_videos == 0
    assert world.held() == world.changed(anna__mp4="new.mp4")
    assert {Path(t.source).parent for t in world.index.tracks()} == {world.tracks}


def test_touched_video_only_gets_a_new_date(world):
    os.utime(world.films / "anna.mp4", (1e9, 1e9))
    assert world.update().n_videos == 0
    assert world.held() == world.before
    assert {t.date for t in world.index.tracks() if t.video.endswith("anna.mp4")} == {1e9}
    assert len(world.index.search(world.index.vectors.code(1), 9, within=Within(until=1e9))) == 1


def test_only_one_of_several_copies_is_listed(world):
    for name in ("a.mp4", "z.mp4"):
        shutil.copy(world.films / "anna.mp4", world.films / name)
    done = world.update()
    assert done.copies == {str(world.films / name): str(world.films / "anna.mp4") for name in ("a.mp4", "z.mp4")}
    assert (done.n_videos, world.held()) == (0, world.before)
    (world.films / "anna.mp4").unlink()  # now a copy is the film
    done = world.update()
    assert done.moved == {str(world.films / "a.mp4"): str(world.films / "anna.mp4")}
    assert done.copies == {str(world.films / "z.mp4"): str(world.films / "a.mp4")}
    assert world.held() == world.changed(anna__mp4="a.mp4")


def test_first_of_several_new_copies_is_listed(world, model, monkeypatch):
    monkeypatch.undo()
    shutil.copy(world.films / "anna.mp4", world.films / "a.mp4")
    ingest(find_videos([world.films]), world.tracks, SETTINGS)
    done = index_source(world.tracks, world.folder.with_name("new"), model)
    assert done.copies == {str(world.films / "anna.mp4"): str(world.films / "a.mp4")}
    assert [Path(video).name for video in done.index.videos()] == ["a.mp4", "both.mp4", "room.mp4"]


def test_copy_in_another_track_folder_is_recognized(world, model):
    double = shutil.copy(world.films / "anna.mp4", world.films.with_name("copy.mp4"))
    tracks = world.tracks.with_name("other")
    shutil.copytree(world.tracks, tracks)
    ingest([Path(double)], tracks, SETTINGS)
    for path in tracks.iterdir():
        if not path.name.startswith("copy"):
            path.unlink()
    done = index_source(tracks, world.folder, model)
    assert done.copies == {str(double): str(world.films / "anna.mp4")}
    assert world.held() == world.before
    # Its original was replaced by another film since: it is the film now.
    (world.films / "anna.mp4").write_bytes(b"something else")
    done = index_source(tracks, world.folder, model)
    assert done.moved == {str(double): str(world.films / "anna.mp4")}
    assert world.held() == world.changed(anna__mp4="../copy.mp4")


def test_video_replaced_by_a_copy_loses_its_old_tracks(world):
    shutil.copy(world.films / "anna.mp4", world.films / "both.mp4")
    done = world.update()
    assert done.copies == {str(world.films / "both.mp4"): str(world.films / "anna.mp4")}
    assert world.held() == {id_: row for id_, row in world.before.items() if row[0] != "both.mp4"}
    assert world.index.videos() == [str(world.films / name) for name in ("anna.mp4", "room.mp4")]


def test_missing_video_is_marked_and_kept(world):
    gone = world.films / "both.mp4"
    gone.unlink()
    world.update()
    assert world.held() == world.before
    assert absent_videos(world.index) == [str(gone)]
    assert {t.video for t in world.index.tracks() if t.is_absent} == {str(gone)}


def test_missing_videos_are_erased_except_on_disconnected_drives(world):
    shutil.copytree(world.films, world.films / "disk")
    for name in ("anna.mp4", "both.mp4"):
        (world.films / name).unlink()
        (world.films / "disk" / name).rename(world.films / "disk" / f"d{name}")
    world.update()
    (world.films / "disk" / "danna.mp4").rename(world.films / "anna2.mp4")
    assert set(absent_videos(world.index)) == {str(world.films / "disk" / "danna.mp4")}
    world.update()
    assert absent_videos(world.index) == []
    for how in (shutil.rmtree, lambda folder: [folder.mkdir()]):  # no folder, and an empty one
        how(world.films / "disk")
        assert remove_absent(world.index, Absent()) == {}
        assert absent_videos(world.index) == [str(world.films / "disk" / "dboth.mp4")]
    (world.films / "anna2.mp4").unlink()
    assert remove_absent(world.index, Absent()) == {str(world.films / "anna2.mp4"): 1}
    assert remove_absent(world.index, Absent(False, [world.tracks])) == {}
    assert remove_absent(world.index, Absent(False, [world.films / "disk"])) == {
        str(world.films / "disk" / "dboth.mp4"): 2
    }
    assert len(world.index) == 0
    assert not list(world.folder.glob("thumbnails/*/*.jpg"))


def test_data_set_sources_are_never_missing(prepare, tmp_path, model):
    prepare("--margin", "1.4")
    index = index_source(tmp_path / "out", tmp_path / "index", model).index
    assert len(index) > 0
    assert absent_videos(index) == []
    assert remove_absent(index, Absent(True, [Path("/")])) == {}


def test_new_paths_are_sent_to_milvus(world):
    """Milvus stores paths and dates too."""
    with closing(sqlite3.connect(world.folder / "index.sqlite")) as database, database:
        database.executescript(milvus_queue.START + "DELETE FROM pending;")  # as with codes in Milvus
    (world.films / "anna.mp4").rename(world.films / "new.mp4")
    ingest(find_videos([world.films]), world.tracks, SETTINGS)
    index_source(world.tracks, world.folder, world.model)
    with closing(sqlite3.connect(world.folder / "index.sqlite")) as database:
        assert database.execute("SELECT track FROM pending").fetchall() == [(world.ids["anna.mp4", 0],)]


class Dying:
    """A database that kills its process before the n-th change."""

    def __init__(self, database, times):
        self.database, self.times = database, times

    def __getattr__(self, name):
        return getattr(self.database, name)

    def __enter__(self):
        return self.database.__enter__()

    def __exit__(self, *arguments):
        return self.database.__exit__(*arguments)

    def execute(self, query, *values):
        if query.split()[0] in ("UPDATE", "DELETE", "INSERT"):
            self.times[0] -= 1
            if not self.times[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.database.execute(query, *values)


def is_killed(world, times):
    """Bring the index up to date in a process that is killed before its n-th change; whether it came to that."""
    process = os.fork()
    if process == 0:
        code, left = 1, [times]
        try:
            with patch.object(track_database, "connect", lambda folder: Dying(connect(folder), left)):
                index_source(world.tracks, world.folder, world.model)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes that have imported everything")
def test_kill_at_any_time_gives_the_same_result(world):
    (world.films / "anna.mp4").rename(world.films / "aside")
    (world.films / "both.mp4").rename(world.films / "anna.mp4")
    (world.films / "aside").rename(world.films / "new.mp4")
    ingest(find_videos([world.films]), world.tracks, SETTINGS)
    saved = (world.folder / "index.sqlite").read_bytes()
    expected = world.changed(anna__mp4="new.mp4", both__mp4="anna.mp4")
    for times in range(1, 30):
        (world.folder / "index.sqlite").write_bytes(saved)
        was_killed = is_killed(world, times)
        assert world.held() == (world.before if was_killed else expected)
        assert index_source(world.tracks, world.folder, world.model).n_videos == 0
        assert world.held() == expected
        if not was_killed:
            break
    assert times > 5
