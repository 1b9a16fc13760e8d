import multiprocessing
import os
import sys
import textwrap
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import run
from drawn_people import draw_background, put_person
from fast_processes import run_script, start
from films import encode_film, frames, make_film, write_film

from facereel.errors import UserError
from facereel.video import TrackSettings, Video, find_tracks
from facereel.video import ingest as module
from facereel.video.find_videos import find_videos
from facereel.video.ingest import Processors, ingest
from facereel.video.track_file import ENDING, read_about, read_tracks, track_path
from facereel.video.track_folder import claimed, has_tracks

pytestmark = pytest.mark.slow

SETTINGS = TrackSettings(crops_per_track=3)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    make_film(folder / "one.mp4", "Anna", seconds=1.5)
    make_film(folder / "deep" / "two.AVI".lower(), "Anna", "Cleo", seconds=1)
    make_film(folder / "deep" / "room.mov", seconds=1)
    return folder


def contents(folder):
    """The content of all track files in a folder, without modification times."""
    return {path.name: pq.read_table(path).to_pylist() for path in sorted(folder.glob(f"*{ENDING}"))}


def test_every_video_gets_a_track_file(films, tmp_path):
    videos = find_videos([films, films / "one.mp4"])
    assert [video.name for video in videos] == ["one.mp4", "room.mov", "two.avi"]
    told = []
    done = ingest(videos, tmp_path, SETTINGS, Processors(2), lambda n, of: told.append((n, of)))
    assert {video.name: n for video, n in done.made.items()} == {"one.mp4": 1, "room.mov": 0, "two.avi": 2}
    assert sum(n for n, _ in told) == told[0][1] == 3
    assert len(list(tmp_path.iterdir())) == 3  # and no half file or lock

    (track,) = read_tracks(track_path(tmp_path, films / "one.mp4"))
    assert (track.number, track.start_s, round(track.end_s, 2)) == (0, 0.0, 1.4)
    assert 2 <= len(track.crops) <= 3
    assert track.crops[0].shape == (200, 200, 3)
    assert track.thumbnail.startswith(b"\xff\xd8")
    about = read_about(track_path(tmp_path, films / "one.mp4"))
    assert about["video"] == str(films / "one.mp4")
    assert about["settings"]["crops_per_track"] == 3
    assert not about["is_truncated"]


def test_crops_round_trip(films, tmp_path):

    ingest([films / "one.mp4"], tmp_path, SETTINGS)
    (found,) = find_tracks(Video(films / "one.mp4"), SETTINGS)
    (read,) = read_tracks(track_path(tmp_path, films / "one.mp4"))
    for a, b in zip(found.crops, read.crops, strict=True):
        assert np.abs(a.image.astype(int) - b).mean() < 2  # as JPEG leaves them


def test_finished_videos_are_skipped(films, tmp_path, monkeypatch):
    videos = find_videos([films])
    ingest(videos, tmp_path, SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(module, "find_tracks", None)  # would be called in vain
    again = ingest(videos, tmp_path, SETTINGS)
    assert (again.made, again.found) == ({}, 3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_changed_video_or_settings_are_processed_again(tmp_path):
    film = make_film(tmp_path / "film.mp4", "Anna", seconds=1)
    out = tmp_path / "out"
    assert ingest([film], out, SETTINGS).made == {film: 1}
    assert ingest([film], out, TrackSettings(crops_per_track=2)).made == {film: 1}
    assert ingest([film], out, SETTINGS).made == {film: 1}
    make_film(film, "Anna", "Cleo", seconds=1)
    assert ingest([film], out, SETTINGS).made == {film: 2}
    path = track_path(out, film)
    path.write_bytes(path.read_bytes()[:100])
    assert not has_tracks(path, film, SETTINGS)
    assert ingest([film], out, SETTINGS).made == {film: 2}


def test_other_min_face_is_processed_again(tmp_path):
    frame = draw_background(1920, 1080)
    put_person(frame, "Anna", 900, 400, 90)
    film = write_film(tmp_path / "film.mp4", iter([frame] * 10))
    out = tmp_path / "out"
    assert ingest([film], out, SETTINGS).made == {film: 0}
    assert ingest([film], out, SETTINGS).made == {}
    assert ingest([film], out, TrackSettings(crops_per_track=3, min_face=40)).made == {film: 1}
    assert read_about(track_path(out, film))["settings"]["min_face"] == 40


def test_videos_of_the_same_name_do_not_collide(tmp_path):
    films = [make_film(tmp_path / folder / "film.mp4", *names) for folder, names in (("a", ["Anna"]), ("b", []))]
    assert list(ingest(films, tmp_path / "out", SETTINGS).made.values()) == [1, 0]
    assert len(list((tmp_path / "out").iterdir())) == 2


BAD = ["text.mp4", "empty.mp4", "no_frames.mkv", "cut.mp4"]


@pytest.fixture
def bad(tmp_path):
    folder = tmp_path / "videos"
    good = make_film(folder / "good.mp4", "Anna", seconds=1)
    (folder / "text.mp4").write_text("once upon a time\n" * 1000)
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(good.read_bytes()[:5000])  # its index was at the end
    encode_film(folder / "no_frames.mkv", "mpeg4", iter(()))
    return folder


def test_bad_files_are_reported_and_do_not_stop_the_run(bad, tmp_path, capfd):
    assert run("ingest", bad, "--out", tmp_path / "out") == 0
    out = capfd.readouterr().out
    for name in BAD:
        assert f"bad: {bad / name}: " in out
    assert f"{bad / 'good.mp4'}: 1 track\n" in out
    assert "1 of 5 videos; 1 new with 1 tracks, 0 done before, 4 unreadable" in out
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_truncated_video_is_reported_and_its_tracks_are_kept(tmp_path, capfd):
    film = make_film(tmp_path / "half.avi", "Anna", seconds=8)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    assert run("ingest", film, "--out", tmp_path / "out") == 0
    out = capfd.readouterr().out
    assert f"{film}: 1 track\n" in out
    assert f"note: {film} is truncated: " in out
    assert " of 8.0 s; the tracks up to there are kept" in out


def test_only_bad_files_is_an_error(bad, tmp_path, capfd):
    assert run("ingest", *(bad / name for name in BAD), "--out", tmp_path / "out") == 2
    assert "cannot read any of 4 files as a video" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such/folder", "--out", "out"], "/no/such/folder: there is no such file or folder"),
        (["empty", "--out", "out"], "no videos found in empty"),
        (["empty", "--out", "out", "--detector", "no.onnx"], "there is no such file"),
        (["empty", "--out", "out", "--fps", "0"], "fps=0"),
    ],
)
def test_invalid_options_print_one_line(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert run("ingest", *arguments) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_harmful_names_stay_in_the_folder(tmp_path, capfd):
    names = ["<script>alert(1)</script>".replace("/", "|") + ".mp4", "a'; DROP TABLE tracks; --.mp4", "..mp4", "-x.mp4"]
    film = make_film(tmp_path / "film.mp4", "Anna", seconds=1).read_bytes()
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(film)
    assert run("ingest", folder, "--out", tmp_path / "out") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4", "videos", "out"}
    made = list((tmp_path / "out").iterdir())
    assert len(made) == 4
    assert {read_about(path)["video"] for path in made} == {str(folder / name) for name in names}
    assert all(path.name.endswith(ENDING) and "<" not in path.name and "'" not in path.name for path in made)


@pytest.mark.skipif(sys.platform == "win32", reason="its file systems take no such names")
def test_terminal_escapes_in_names_are_not_printed(tmp_path, capfd):
    """A name could hide what else was said, or look like another: by an escape sequence, or by turning text around."""
    name = "a\x1b[2J\x1b]0;owned\x07\u202efilm\x9b31m.mp4"
    film = make_film(tmp_path / "film.mp4", "Anna", seconds=1)
    (tmp_path / "videos").mkdir()
    film.rename(tmp_path / "videos" / name)
    (tmp_path / "videos" / f"bad{name}").write_text("no film")
    assert run("ingest", tmp_path / "videos", "--out", tmp_path / "out") == 0
    assert run("ingest", tmp_path / "absent\x1b[2J.mp4", "--out", tmp_path / "out") == 2
    told = "".join(capfd.readouterr())
    assert told.count("\N{REPLACEMENT CHARACTER}[2J") == 3
    assert not set(told) & {"\x1b", "\x07", "\x9b", "\u202e"}
    (made,) = (tmp_path / "out").glob(f"*{ENDING}")
    assert made.name.isprintable()
    assert read_about(made)["video"] == str(tmp_path / "videos" / name)


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere take no such names")
def test_name_that_is_not_utf8_is_reported(films, tmp_path):
    video = Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9.mp4"))
    video.write_bytes((films / "one.mp4").read_bytes())
    done = ingest([video, films / "one.mp4"], tmp_path / "out", SETTINGS)
    assert list(done.made.values()) == [1]
    assert "not UTF-8" in done.bad[video]


def test_full_disk_is_reported_and_finished_files_are_kept(films, tmp_path, monkeypatch):
    videos = find_videos([films])
    ingest(videos[:1], tmp_path, SETTINGS)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(UserError, match=r"the disk is full: .*; 1 of 3 videos are done. Run the same command again"):
        ingest(videos, tmp_path, SETTINGS)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    assert len(ingest(videos, tmp_path, SETTINGS).made) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_really_full_disk_is_reported(films, tmp_path, monkeypatch):
    monkeypatch.setattr("facereel.video.track_file.atomic_write", lambda path: nullcontext(Path("/dev/full")))
    with pytest.raises(UserError, match="the disk is full"):
        ingest([films / "one.mp4"], tmp_path, SETTINGS)


def _ingest_all(films, out, results):
    done = ingest(find_videos([films]), out, SETTINGS)
    results.put((len(done.made), done.found, len(done.busy)))


def test_two_processes_share_the_work(films, tmp_path):
    results = multiprocessing.get_context("forkserver").Queue()
    processes = [start(_ingest_all, films, tmp_path / "both", results) for _ in range(2)]
    counts = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    assert sum(made for made, _, _ in counts) == 3
    assert all(sum(count) == 3 for count in counts)
    ingest(find_videos([films]), tmp_path / "alone", SETTINGS)
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_a_locked_video_is_tried_again_at_the_end(films, tmp_path):
    """Its lock may be that of a process that died with its machine."""
    lock = ExitStack()
    lock.enter_context(claimed(track_path(tmp_path, films / "one.mp4")))
    passes, added, done = [], [], []

    def expect(videos):
        passes.append(videos)
        if len(passes) == 2:
            lock.close()

    sink = SimpleNamespace(expect=expect, add=added.append)
    report = ingest(find_videos([films]), tmp_path, SETTINGS, advance=lambda n, of: done.append(n), sink=sink)
    assert [video.name for video in added] == ["room.mov", "two.avi", "one.mp4"]
    assert (len(report.made), report.busy) == (3, [])
    assert (sum(done), min(done)) == (3, 0)


KILLED = """
    import os, sys
    from pathlib import Path
    from facereel.video import TrackSettings, find_videos, ingest, track_file

    where, times, films, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    owner, name = {
        "found": (track_file, "_to_row"),
        "written": (track_file.pq.ParquetWriter, "add_key_value_metadata"),
        "renamed": (os, "replace"),
    }[where]
    original = getattr(owner, name)

    def counted(*arguments):
        global times
        times -= 1
        if not times:
            os.kill(os.getpid(), 9)
        return original(*arguments)

    setattr(owner, name, counted)
    ingest.ingest(find_videos.find_videos([films]), out, TrackSettings(crops_per_track=3))
"""


@pytest.mark.parametrize(
    ("where", "times"), [("found", 1), ("found", 2), ("written", 2), ("renamed", 1), ("renamed", 3)]
)
def test_next_run_continues_after_a_kill_at_any_time(films, tmp_path, where, times):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert run_script(textwrap.dedent(KILLED), where, times, films, out) == -9
    left = {path: path.stat().st_mtime_ns for path in out.glob(f"*{ENDING}")}
    for path in left:
        list(read_tracks(path))  # what has its name is whole
    ingest(find_videos([films]), out, SETTINGS)
    assert all(path.stat().st_mtime_ns == time for path, time in left.items())
    ingest(find_videos([films]), whole, SETTINGS)
    assert contents(out) == contents(whole)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_track_files_are_plain_parquet(films, tmp_path):
    ingest([films / "one.mp4"], tmp_path, SETTINGS)
    table = pq.read_table(track_path(tmp_path, films / "one.mp4"))
    row = table.to_pylist()[0]
    assert len(row["times"]) == len(row["boxes"]) == 8
    assert len(row["crops"]) == len(row["crop_times"]) == len(row["crop_qualities"])
    assert all(len(box) == 4 for box in row["boxes"])


def test_memory_does_not_grow_with_the_video(tmp_path):
    """At most twice the number of kept crops is in memory, for a track of any length."""
    from facereel.video.find_tracks import FoundTrack

    film = encode_film(tmp_path / "long.mkv", "mpeg4", frames("Anna", seconds=4))
    most = 0
    original = FoundTrack.add

    def add(self, *arguments):
        nonlocal most
        original(self, *arguments)
        most = max(most, len(self.crops))

    FoundTrack.add = add
    try:
        (track,) = find_tracks(Video(film), SETTINGS)
    finally:
        FoundTrack.add = original
    assert len(track.times) == 20
    assert most < 6


@pytest.fixture
def never(monkeypatch):
    """Make face detection fail from now on."""
    return lambda: monkeypatch.setattr(module, "find_tracks", None)


def two_films(folder):
    return make_film(folder / "anna.mp4", "Anna", seconds=1), make_film(folder / "both.mp4", "Anna", "Cleo", seconds=1)


def tracks_of(out, film):
    """A film's tracks, and the film that their file names."""
    path = track_path(out, film)
    return pq.read_table(path).to_pylist(), read_about(path)["video"]


def test_moved_video_keeps_its_tracks(tmp_path, never):
    film, _ = two_films(tmp_path / "films")
    out = tmp_path / "out"
    ingest(find_videos([tmp_path / "films"]), out, SETTINGS)
    before, _ = tracks_of(out, film)
    (tmp_path / "films").rename(tmp_path / "archive")
    moved = (tmp_path / "archive" / "anna.mp4").rename(tmp_path / "archive" / "Anna, 2024.mp4")
    never()
    done = ingest(find_videos([tmp_path / "archive"]), out, SETTINGS)
    assert (done.made, done.found, done.bad, done.gone) == ({}, 2, {}, [])
    both = tmp_path / "archive" / "both.mp4"
    assert done.carried.moved == {moved: film, both: tmp_path / "films" / "both.mp4"}
    assert tracks_of(out, moved) == (before, str(moved))
    assert has_tracks(track_path(out, moved), moved, SETTINGS)
    assert {path.name for path in out.iterdir()} == {track_path(out, path).name for path in (moved, both)}


def test_touched_video_only_gets_a_new_date(tmp_path, never):
    film, _ = two_films(tmp_path)
    out = tmp_path / "out"
    ingest([film], out, SETTINGS)
    before = tracks_of(out, film)
    os.utime(film, (1e9, 1e9))
    never()
    done = ingest([film], out, SETTINGS)
    assert (done.made, done.found, done.carried.moved, done.carried.copies) == ({}, 1, {}, {})
    assert tracks_of(out, film) == before
    assert read_about(track_path(out, film))["mtime_ns"] == 10**18
    assert has_tracks(track_path(out, film), film, SETTINGS)


def test_videos_that_swap_names_keep_their_tracks(tmp_path, never):
    """Every video gets the earlier name of another one, as when a series is renumbered."""
    films = [make_film(tmp_path / f"{i}.mp4", *names, seconds=1) for i, names in enumerate((["Anna"], [], ["Cleo"]))]
    out = tmp_path / "out"
    ingest(films, out, SETTINGS)
    before = [tracks_of(out, film)[0] for film in films]
    films[2].rename(tmp_path / "aside")
    films[1].rename(films[2])
    films[0].rename(films[1])
    (tmp_path / "aside").rename(films[0])
    never()
    done = ingest(films, out, SETTINGS)
    assert (done.made, done.found) == ({}, 3)
    assert [tracks_of(out, film) for film in films] == [(before[i - 1], str(films[i])) for i in range(3)]
    assert len(list(out.iterdir())) == 3


def test_copy_is_another_video_with_the_same_tracks(tmp_path, never):
    film, _ = two_films(tmp_path / "films")
    out = tmp_path / "out"
    ingest([film], out, SETTINGS)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(film.read_bytes())
    never()
    done = ingest([film, copy], out, SETTINGS)
    assert (done.made, done.found, done.carried.copies, done.carried.moved) == ({}, 2, {copy: film}, {})
    assert tracks_of(out, copy) == (tracks_of(out, film)[0], str(copy))


def test_only_one_of_several_new_copies_is_processed(tmp_path, monkeypatch):
    film, other = two_films(tmp_path / "films")
    copy = tmp_path / "films" / "zz.mp4"
    copy.write_bytes(film.read_bytes())
    looked = []
    monkeypatch.setattr(
        module, "find_tracks", lambda video, *rest: looked.append(video.file) or find_tracks(video, *rest)
    )
    done = ingest(find_videos([tmp_path / "films"]), tmp_path / "out", SETTINGS)
    assert looked == [film, other]
    assert (done.made, done.found, done.carried.copies) == ({film: 1, other: 2}, 1, {copy: film})


def test_video_changed_in_place_is_processed_again(tmp_path):
    film = make_film(tmp_path / "film.avi", "Anna", seconds=1)
    assert ingest([film], tmp_path / "out", SETTINGS).made == {film: 1}
    make_film(film, "Anna", "Cleo", seconds=1)
    size = film.stat().st_size
    assert ingest([film], tmp_path / "out", SETTINGS).made == {film: 2}
    content = bytearray(film.read_bytes())
    content[-1] ^= 1  # as large as before
    film.write_bytes(content)
    os.utime(film, (1e9, 1e9))
    assert film.stat().st_size == size
    assert list(ingest([film], tmp_path / "out", SETTINGS).made) == [film]


def test_moved_video_is_processed_again_with_other_settings(tmp_path):
    film, _ = two_films(tmp_path)
    ingest([film], tmp_path / "out", SETTINGS)
    moved = film.rename(tmp_path / "moved.mp4")
    done = ingest([moved], tmp_path / "out", TrackSettings(crops_per_track=2))
    assert (done.made, done.carried.moved) == ({moved: 1}, {})
    assert [path.name for path in (tmp_path / "out").iterdir()] == [track_path(tmp_path / "out", moved).name]


def test_tracks_of_a_missing_video_are_kept_and_reported(tmp_path, capfd):
    film, both = two_films(tmp_path / "films")
    assert run("ingest", tmp_path / "films", "--out", tmp_path / "out") == 0
    both.unlink()
    assert run("ingest", tmp_path / "films", "--out", tmp_path / "out") == 0
    assert f"note: kept the tracks of 1 absent video ({both})\n" in capfd.readouterr().out
    assert len(list((tmp_path / "out").iterdir())) == 2
    film.rename(tmp_path / "films" / "new.mp4")
    assert run("ingest", tmp_path / "films", "--out", tmp_path / "out") == 0
    assert (
        f"note: {tmp_path / 'films' / 'new.mp4'} was moved from {film}: its tracks are kept\n" in capfd.readouterr().out
    )


def test_damaged_tracks_of_a_moved_video_are_written_again(tmp_path):
    film, _ = two_films(tmp_path)
    ingest([film], tmp_path / "out", SETTINGS)
    path = track_path(tmp_path / "out", film)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    moved = film.rename(tmp_path / "moved.mp4")
    ingest([moved], tmp_path / "out", SETTINGS)
    assert len(list(read_tracks(track_path(tmp_path / "out", moved)))) == 1


MOVED = """
    import os, sys
    from pathlib import Path
    from facereel.video import TrackSettings, find_videos, ingest

    times, videos, out = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    replace, unlink = os.replace, Path.unlink

    def counted(original):
        def call(*arguments, **named):
            global times
            times -= 1
            if not times:
                os.kill(os.getpid(), 9)
            return original(*arguments, **named)
        return call

    os.replace, Path.unlink = counted(replace), counted(unlink)
    ingest.ingest(find_videos.find_videos([videos]), out, TrackSettings(crops_per_track=3))
"""


def test_kill_while_moving_tracks_gives_the_same_result(tmp_path, never):
    """Before every file that is renamed or deleted, one after the other, until none is left."""
    videos, out = tmp_path / "films", tmp_path / "out"
    films = two_films(videos)
    ingest(find_videos([videos]), out, SETTINGS)
    before = {film.read_bytes(): tracks_of(out, film)[0] for film in films}
    saved = {path.name: path.read_bytes() for path in out.iterdir()}
    films[0].rename(tmp_path / "aside")
    films[1].rename(films[0])  # takes the other's name
    (tmp_path / "aside").rename(videos / "new.mp4")
    never()
    for times in range(1, 100):
        for path in (out, *out.iterdir()):
            if path.is_file():
                path.unlink()
        for name, content in saved.items():
            (out / name).write_bytes(content)
        was_killed = run_script(textwrap.dedent(MOVED), times, videos, out) == -9
        done = ingest(find_videos([videos]), out, SETTINGS)
        assert (done.made, done.found, done.bad) == ({}, 2, {})
        for film in (films[0], videos / "new.mp4"):
            assert tracks_of(out, film) == (before[film.read_bytes()], str(film))
        assert len(list(out.iterdir())) == 2
        if not was_killed:
            break
    assert times > 5
