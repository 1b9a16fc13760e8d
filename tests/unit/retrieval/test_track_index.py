import sqlite3
import textwrap
import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from fast_processes import run_script

from facereel.errors import UserError
from facereel.retrieval import track_database
from facereel.retrieval.track_database import connect
from facereel.retrieval.track_index import Match, NewTrack, TrackIndex, VideoRecord, Within

ABOUT = {"detector": "mtcnn", "size": 200, "margin": 1.4}
N_BITS = 48


def code(seed):
    return torch.rand(N_BITS, generator=torch.Generator().manual_seed(seed)) > 0.5


def new(number, seed, person=None):
    return NewTrack(number, float(number), number + 1.5, person, code(seed), f"image {seed}".encode())


@pytest.fixture
def index(tmp_path, model):
    index = TrackIndex.create(tmp_path / "index", model, ABOUT)
    index.upsert_video(VideoRecord("/a/one.mp4", "s1", 100.0, "t1"), [new(0, 10), new(1, 11, "Ada")])
    index.upsert_video(VideoRecord("/a/b/two.mp4", "s2", 200.0, "t2"), [new(0, 20, "Ada")])
    index.upsert_video(VideoRecord("/ab/three.mp4", "s3", 300.0, "t3"), [new(0, 30)])
    index.upsert_video(VideoRecord("/a/none.mp4", "s4", 400.0, "t4"), [])
    return index


def held(index):
    """Everything, by video and number."""
    return {
        (t.video, t.number): (t.start_s, t.end_s, t.person, t.thumbnail.read_bytes(), index.vectors.code(t.id).tolist())
        for t in index.tracks()
    }


def thumbnails(index):
    return sorted(path.read_text() for path in index.folder.glob("thumbnails/*/*.jpg"))


def test_added_tracks_are_stored(index):
    assert len(index) == 4
    assert index.videos() == ["/a/b/two.mp4", "/a/none.mp4", "/a/one.mp4", "/ab/three.mp4"]
    assert held(index)["/a/one.mp4", 1] == (1.0, 2.5, "Ada", b"image 11", code(11).tolist())
    assert index.fingerprint("/a/one.mp4") == "s1"
    assert index.fingerprint("/a/other.mp4") is None
    assert index.tracks([99, 2])[0].date == 100.0
    assert TrackIndex(index.folder).about["detector"] == "mtcnn"
    assert index.model().fingerprint() == index.about["model"]


def test_nearest_track_is_found_by_code(index):
    matches = index.search(code(20), 10)
    assert (matches[0].track.video, matches[0].distance) == ("/a/b/two.mp4", 0.0)
    expected = sorted((float((code(20) != index.vectors.code(t.id)).float().mean()), t.id) for t in index.tracks())
    assert [m.track.id for m in matches] == [id_ for _, id_ in expected]
    assert [m.distance for m in matches] == pytest.approx([distance for distance, _ in expected])


def test_scores_weight_bits_by_confidence(index):
    scores = torch.rand(N_BITS, generator=torch.Generator().manual_seed(5))
    matches = index.search(scores > 0.5, 10, scores=scores)
    expected = []
    for track in index.tracks():
        differ = sure = 0.0
        for bit, score in zip(index.vectors.code(track.id).tolist(), scores.tolist(), strict=True):
            sure += abs(2 * score - 1)
            differ += abs(2 * score - 1) * (bit != (score > 0.5))
        expected.append((differ / sure, track.id))
    assert [m.track.id for m in matches] == [i for _, i in sorted(expected)]
    assert [m.distance for m in matches] == pytest.approx([share for share, _ in sorted(expected)], abs=1e-5)


@pytest.mark.parametrize(
    ("within", "videos"),
    [
        (Within(folder="/a"), {"/a/one.mp4", "/a/b/two.mp4"}),
        (Within(folder="/a/"), {"/a/one.mp4", "/a/b/two.mp4"}),
        (Within(folder="/a/b"), {"/a/b/two.mp4"}),
        (Within(folder="/%"), set()),
        (Within(since=200.0), {"/a/b/two.mp4", "/ab/three.mp4"}),
        (Within(until=200.0), {"/a/one.mp4", "/a/b/two.mp4"}),
        (Within(folder="/a", since=150.0, until=250.0), {"/a/b/two.mp4"}),
        (Within(), {"/a/one.mp4", "/a/b/two.mp4", "/ab/three.mp4"}),
    ],
)
def test_search_is_restricted_to_some_videos(index, within, videos):
    assert {match.track.video for match in index.search(code(1), 10, within=within)} == videos


def test_upsert_replaces_the_tracks_of_a_video(index):
    index.upsert_video(VideoRecord("/a/one.mp4", "s5", 100.0, "t1"), [new(0, 12)])
    assert index.fingerprint("/a/one.mp4") == "s5"
    assert {key[0]: row[3] for key, row in held(index).items()}["/a/one.mp4"] == b"image 12"
    assert thumbnails(index) == ["image 12", "image 20", "image 30"]
    assert index.search(code(12), 1)[0].track.video == "/a/one.mp4"
    assert len(index.codes()) == len(index) == 3


def test_erased_person_is_removed_everywhere(index):
    index.save_codes()
    secret = np.packbits(code(11).numpy()).tobytes()
    assert secret in (index.folder / "index.sqlite").read_bytes()
    assert index.remove_person("Ada") == 2
    index.save_codes()
    assert thumbnails(index) == ["image 10", "image 30"]
    assert {match.track.person for match in index.search(code(11), 10)} == {None}
    for path in index.folder.rglob("*"):
        if path.is_file() and "model" not in path.parts:
            content = path.read_bytes()
            assert secret not in content, path
            assert b"Ada" not in content, path
    assert index.remove_person("Ada") == 0


def test_a_video_is_erased(index):
    assert index.remove_video("/a/one.mp4") == 2
    assert index.fingerprint("/a/one.mp4") is None
    assert index.remove_video("/a/one.mp4") == 0
    assert thumbnails(index) == ["image 20", "image 30"]


def test_ids_are_never_reused(index):
    most = max(track.id for track in index.tracks())
    index.remove_video("/ab/three.mp4")
    index.upsert_video(VideoRecord("/new.mp4", "s", None, "t"), [new(0, 40)])
    assert index.tracks()[-1].id == most + 1


def test_tracks_are_named_and_grouped(index):
    index.people.name([1, 3], "Grace")
    assert [track.person for track in index.tracks()] == ["Grace", "Ada", "Grace", None]
    index.people.name([1], None)
    index.set_clusters({1: 7, 4: 7})
    assert [(track.person, track.cluster) for track in index.tracks()] == [
        (None, 7),
        ("Ada", None),
        ("Grace", None),
        (None, 7),
    ]
    index.set_clusters({2: 1})
    assert [track.cluster for track in index.tracks()] == [None, 1, None, None]


def test_changes_by_another_process_are_seen(index):
    other = TrackIndex(index.folder)
    assert other.search(code(40), 1)[0].distance > 0
    index.upsert_video(VideoRecord("/new.mp4", "s", None, "t"), [new(0, 40)])
    assert other.search(code(40), 1)[0].track.video == "/new.mp4"


def test_other_model_or_settings_raise(index, model):
    with pytest.raises(UserError, match=r"made by another model \(hash [0-9a-f]{12}, not [0-9a-f]{12}\)"):
        TrackIndex.create(index.folder, model.untrained(), ABOUT)
    with pytest.raises(UserError, match=r"made with margin 1\.4, not 1\.2"):
        TrackIndex.create(index.folder, model, {**ABOUT, "margin": 1.2})
    assert len(TrackIndex.create(index.folder, model, ABOUT)) == 4


def test_exchanged_model_raises(index, model):
    model.untrained().save(index.folder / "model")
    with pytest.raises(UserError, match="not the model that the index was made with"):
        index.model()


def test_index_of_another_version_raises(index):
    with sqlite3.connect(index.folder / "index.sqlite") as database:
        database.execute("UPDATE about SET value = 3 WHERE name = 'format'")
    with pytest.raises(UserError, match="has format 3, but this version of facereel reads format 2"):
        TrackIndex(index.folder)


def test_folder_without_an_index_raises(tmp_path):
    with pytest.raises(UserError, match=r"has no index: index\.sqlite is missing"):
        TrackIndex(tmp_path)
    (tmp_path / "index.sqlite").write_text("once upon a time\n" * 1000)
    with pytest.raises(UserError, match="damaged: file is not a database"):
        TrackIndex(tmp_path)
    (tmp_path / "index.sqlite").write_bytes(b"")
    with pytest.raises(UserError, match="has no index"):
        TrackIndex(tmp_path)


def test_full_disk_is_reported_and_changes_nothing(index, monkeypatch):
    before, images = held(index), thumbnails(index)

    def full(folder):
        database = connect(folder)
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")  # as if the disk ended here
        return database

    monkeypatch.setattr(track_database, "connect", full)
    with pytest.raises(UserError, match="the disk is full"):
        index.upsert_video(VideoRecord("/a/one.mp4", "s", None, "t" * 5000), [new(i, i) for i in range(500)])
    monkeypatch.undo()
    assert held(index) == before
    index.upsert_video(VideoRecord("/a/one.mp4", "s1", 100.0, "t1"), [new(0, 10), new(1, 11, "Ada")])
    assert thumbnails(index) == images


def test_long_wait_for_another_process_raises(index, monkeypatch):
    monkeypatch.setattr(track_database, "PATIENCE_S", 0.1)
    with sqlite3.connect(index.folder / "index.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="another process has been writing"):
            index.upsert_video(VideoRecord("/new.mp4", "s", None, "t"), [])
        assert len(index.search(code(1), 10)) == 4  # reading goes on
        other.execute("ROLLBACK")


def test_threads_write_and_search_concurrently(index):
    faults = []

    def write(number):
        try:
            for i in range(5):
                index.upsert_video(VideoRecord(f"/{number}/{i}.mp4", "s", None, "t"), [new(0, i)])
                assert index.search(code(i), 3)[0].distance == 0.0
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(index) == len(index.codes()) == 24


KILLED = """
    import os, sys
    from pathlib import Path
    sys.path[:0] = [{helpers!r}, {retrieval!r}]
    from facereel.retrieval.code_segments import CodeSegments
    from facereel.retrieval.track_database import TrackDatabase
    from facereel.retrieval.track_index import TrackIndex, VideoRecord
    from test_track_index import new

    def die(*arguments, **named):
        os.kill(os.getpid(), 9)

    where, folder = sys.argv[1], sys.argv[2]
    index = TrackIndex(folder)
    if where == "within":
        original, count = Path.write_bytes, iter(range(2))
        Path.write_bytes = lambda self, content: die() if next(count) else original(self, content)
    elif where == "committed":
        TrackDatabase._remove_erased = die
    elif where == "codes":
        CodeSegments._replace = die
    elif where == "codes half":
        from facereel.retrieval import code_segments
        code_segments.write_part = die
    index.upsert_video(VideoRecord("/a/one.mp4", "later", 1.0, "t"), [new(0, 50), new(1, 51), new(2, 52)])
    index.save_codes()
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["within", "committed", "codes", "codes half"])
def test_writes_are_atomic_under_a_kill(index, where):
    from pathlib import Path

    before = held(index)
    here = Path(__file__).parent
    script = textwrap.dedent(KILLED).format(helpers=str(here.parents[1] / "helpers"), retrieval=str(here))
    assert run_script(script, where, index.folder) == -9
    again = TrackIndex(index.folder)
    is_after = where != "within"
    assert again.fingerprint("/a/one.mp4") == ("later" if is_after else "s1")
    if not is_after:
        assert {key: row[:3] for key, row in held(again).items()} == {key: row[:3] for key, row in before.items()}
    # The next run continues, and leaves nothing of erased tracks.
    again.upsert_video(VideoRecord("/a/one.mp4", "later", 1.0, "t"), [new(0, 50), new(1, 51), new(2, 52)])
    again.save_codes()
    assert thumbnails(again) == ["image 20", "image 30", "image 50", "image 51", "image 52"]
    assert TrackIndex(index.folder).search(code(51), 1)[0].distance == 0.0
    assert len(again.codes()) == len(again) == 5


def test_two_processes_create_the_same_index(tmp_path, model):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(TrackIndex.create(tmp_path / "new", model, ABOUT)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(index) for index in made] == [0] * 4


@pytest.mark.parametrize("name", ["thumbnails", "model", "index.sqlite"])
def test_index_that_links_elsewhere_raises(index, tmp_path, name):
    (index.folder / name).rename(tmp_path / "elsewhere")
    (index.folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out of"):
        TrackIndex(index.folder)


def test_link_to_an_index_is_followed(index, tmp_path):
    (tmp_path / "link").symlink_to(index.folder)
    assert held(TrackIndex(tmp_path / "link")) == held(index)


def test_links_in_an_untrusted_index_are_not_followed(index, tmp_path):
    letter = tmp_path / "elsewhere" / "2.jpg"
    letter.parent.mkdir()
    letter.write_text("dear")
    mine, theirs = index.thumbnails.path(1), index.thumbnails.path(2)
    assert index.thumbnails.find(1) == mine
    theirs.unlink()
    theirs.symlink_to(letter)
    assert index.thumbnails.find(2) is None
    index.thumbnails.path(5).symlink_to(letter)  # where the next track's image goes
    before = held(index)
    with pytest.raises(UserError, match="leads out of"):
        index.upsert_video(VideoRecord("/a/new.mp4", "s5", None, "t5"), [new(0, 50)])
    index.thumbnails.path(5).unlink()
    assert held(index) == before
    folder = mine.parent
    folder.rename(tmp_path / "images")
    folder.symlink_to(letter.parent)
    with pytest.raises(UserError, match="leads out of"):
        index.remove_video("/a/one.mp4")
    assert letter.read_text() == "dear"


def test_names_in_an_index_are_not_paths(index, tmp_path):
    """Nothing is written to paths given by names of videos or people in the database."""
    before = sorted(path for path in tmp_path.rglob("*") if path.parts[-1] != "codes" and path.suffix != ".bin")
    index.upsert_video(VideoRecord("../../out.mp4", "s", None, "../../source"), [])
    index.people.name([1], "../../somebody")
    index.remove_video("../../out.mp4")
    index.save_codes()
    assert sorted(path for path in tmp_path.rglob("*") if path.parts[-1] != "codes" and path.suffix != ".bin") == before


@pytest.mark.parametrize("value", ["[" * 100_000, "{"])
def test_unreadable_json_in_an_index_raises(index, value):
    with sqlite3.connect(index.folder / track_database.DATABASE) as database:
        database.execute("UPDATE about SET value = ? WHERE name = 'margin'", (value,))
    with pytest.raises(UserError, match="damaged"):
        TrackIndex(index.folder)


@pytest.mark.parametrize(
    ("change", "read", "message"),
    [
        ("UPDATE tracks SET code = x'00'", lambda index: index.vectors.code(1), "the code of track 1 does not have"),
        ("UPDATE tracks SET start_s = 'soon'", lambda index: index.tracks(), "a value of track 1 has another type"),
        ("UPDATE about SET value = '{' WHERE name = 'generation'", lambda index: index.about, "cannot be read"),
        ("DELETE FROM about WHERE name = 'generation'", lambda index: index.about, "generation is not a number"),
        ("UPDATE about SET value = '1e9' WHERE name = 'n_bits'", lambda index: TrackIndex(index.folder), "n_bits"),
        ("DELETE FROM about WHERE name = 'n_bits'", lambda index: TrackIndex(index.folder), "n_bits"),
        (
            "DELETE FROM about WHERE name = 'model'",
            lambda index: TrackIndex(index.folder),
            "hash of its model is missing",
        ),
    ],
)
def test_unexpected_values_are_reported_as_damage(index, change, read, message):
    with closing(sqlite3.connect(index.folder / "index.sqlite")) as database, database:
        database.execute(change)
    with pytest.raises(UserError, match=f"is damaged: .*{message}"):
        read(index)


def test_codes_are_not_written_through_links(index, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (index.folder / "codes").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out of"):
        index.save_codes()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("probability", "end_s", "verdict"),
    [
        (None, 2.0, None),
        (0.5, 2.0, "likely"),
        (0.4999, 2.0, "maybe"),
        (0.05, 2.0, "maybe"),
        (0.0499, 2.0, "unlikely"),
        (0.99, 1.65, "maybe"),  # brief
        (0.01, 1.65, "unlikely"),
        (0.99, 1.75, "likely"),
        (0.99, None, "likely"),  # a clip without times
    ],
)
def test_verdict_follows_from_probability_and_duration(index, probability, end_s, verdict):
    track = index.tracks()[0]._replace(start_s=1.0, end_s=end_s)
    assert Match(track, 0.1, probability).verdict == verdict
