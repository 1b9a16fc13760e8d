"""Folders that change while they are watched. Files are not decoded: a fake function reports what is added."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from facereel.errors import UserError
from facereel.retrieval import watch as module
from facereel.retrieval.build_index import IndexReport
from facereel.retrieval.index_videos import VideosReport
from facereel.retrieval.watch import Scanner, watch, watching
from facereel.video.ingest import IngestReport


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(name.encode())
    return folder


def report(films=(), **how):
    index: Any = SimpleNamespace(records=lambda: {str(film): None for film in films})
    return VideosReport(IndexReport(index, **how.pop("index", {})), IngestReport(**how))


def settled(folder):
    """A scanner that has handled all videos of a folder."""
    scanner = Scanner([folder])
    assert scanner.scan() is None
    changes = scanner.scan()
    scanner.handle(changes, report())
    assert scanner.scan() is None
    return scanner


def processed(scanner):
    changes = scanner.scan()
    return None if changes is None else [video.name for video in changes.videos]


def test_growing_video_waits_until_it_is_complete(films):
    scanner = settled(films)
    for length in (1, 2, 3):
        (films / "c.mp4").write_bytes(b"c" * length)
        assert processed(scanner) is None
    assert processed(scanner) == ["c.mp4"]


def test_recording_that_never_ends_does_not_block_others(films):
    scanner = settled(films)
    (films / "c.mp4").write_bytes(b"c")
    names = []
    for length in range(5):
        (films / "recording.mp4").write_bytes(b"r" * length)
        names.append(processed(scanner))
    assert names == [None, None, None, None, ["c.mp4"]]


def test_changes_wait_for_a_video_that_is_being_moved(films):
    """The middle of a swap: one path has the other content, and the other has not come to its place yet."""
    scanner = settled(films)
    (films / "a.mp4").rename(films.parent / "aside")
    (films / "b.mp4").rename(films / "a.mp4")
    os.utime(films / "a.mp4", (1, 1))
    assert processed(scanner) is None
    (films.parent / "aside").rename(films / "b.mp4")
    os.utime(films / "b.mp4", (1, 1))
    assert processed(scanner) is None
    assert sorted(processed(scanner)) == ["a.mp4", "b.mp4"]


def test_all_are_looked_at_when_one_is_gone_except_bad_ones(films):
    (films / "bad.mp4").write_bytes(b"bad")
    scanner = Scanner([films])
    scanner.scan()
    scanner.handle(scanner.scan(), report(bad={films / "bad.mp4": "why"}))
    (films / "b.mp4").unlink()
    changes = scanner.scan()
    assert [video.name for video in changes.videos] == ["a.mp4"]
    event = scanner.handle(changes, report([films / "b.mp4"]))
    assert (event.gone, event.missing) == ([films / "b.mp4"], [])
    assert scanner.scan() is None


def test_missing_folder_is_one_event(films):
    scanner = settled(films)
    films.rename(films.with_name("elsewhere"))
    event = scanner.handle(scanner.scan(), report([films / "a.mp4", films / "b.mp4"]))
    assert (event.gone, event.missing) == ([], [films])
    assert scanner.scan() is None


def test_video_that_another_process_reads_is_tried_again(films):
    scanner = Scanner([films])
    scanner.scan()
    scanner.handle(scanner.scan(), report(busy=[films / "a.mp4"]))
    assert processed(scanner) == ["a.mp4"]


def test_copies_and_lost_files_are_reported_once(films):
    scanner = settled(films)
    told = []
    for _ in range(2):
        os.utime(films / "a.mp4", (len(told), 1))
        scanner.scan()
        made = report(bad={films / "b.mp4": "why", films / "c.mp4": "gone"}, index={"copies": {"a": "b"}})
        event = scanner.handle(scanner.scan() or module._Changes({films / "b.mp4": (0, 0)}, [], set()), made)
        told.append((event.report.index.copies, list(event.report.ingest.bad)))
    assert told == [({"a": "b"}, [films / "b.mp4"]), ({}, [films / "b.mp4"])]


def test_problem_is_reported_once_and_the_pass_is_repeated(films, monkeypatch):
    passes = []

    def sleep(seconds):
        if len(passes) == 1 and not (films / "c.mp4").exists():
            (films / "c.mp4").write_bytes(b"c")
        if len(passes) > 5:
            raise KeyboardInterrupt

    def update(videos):
        passes.append([video.name for video in videos])
        if 1 < len(passes) < 5:
            raise UserError("the disk is full")
        return report()

    monkeypatch.setattr("facereel.retrieval.watch.time.sleep", sleep)
    events = []
    for event in watch([films], update):
        events.append(event.problem or len(event.report.ingest.made))
        if len(passes) == 5:
            break
    assert events == [0, "the disk is full", 0]
    assert passes == [["a.mp4", "b.mp4"], *[["c.mp4"]] * 4]


def test_problem_of_the_first_pass_is_raised(films, monkeypatch):
    monkeypatch.setattr("facereel.retrieval.watch.time.sleep", lambda seconds: None)

    def update(videos):
        raise UserError("another model")

    with pytest.raises(UserError, match="another model"):
        next(watch([films], update))
    with pytest.raises(UserError, match="there is no such file or folder"):
        next(watch([films / "none"], update))


def test_only_one_process_watches_for_an_index(tmp_path):
    out = tmp_path / "index"
    with watching(out), pytest.raises(UserError, match="another process keeps the index"), watching(out):
        pass
    with watching(tmp_path / "index"):
        pass
