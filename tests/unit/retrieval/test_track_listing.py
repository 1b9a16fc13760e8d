"""Pages of tracks, videos, people and groups, and names and days that they are searched by."""

import time
from datetime import date, datetime

import pytest
from drawn_index import Seen, make_index

from facereel.data.person_names import LONGEST_NAME, check_name
from facereel.errors import UserError
from facereel.retrieval.track_index import TrackIndex, Within

VIDEOS = {
    "a.mp4": [Seen(1, 0.0, 4.0, "Bo"), Seen(2, 5.0, 6.0, "Ada")],
    "b.mp4": [Seen(1, 1.0, 9.0, "Bo"), Seen(1, 1.0, 2.0)],
}


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> TrackIndex:
    index = make_index(tmp_path_factory.mktemp("listing"), VIDEOS)
    index.set_clusters({1: 4, 2: 4, 3: 4, 4: 9})
    return index


def test_groups_have_counts_names_and_their_longest_track(index):
    first, second = index.listing.groups(0, 10)
    assert (first.number, first.n_tracks, first.n_videos, first.seconds) == (4, 3, 2, 13.0)
    assert (first.names, first.n_unnamed, first.longest) == (["Bo", "Ada"], 0, 3)
    assert (second.number, second.names, second.n_unnamed) == (9, [], 1)
    assert index.listing.groups(4, 10) == [second]
    assert index.listing.group(9) == second
    assert index.listing.group(5) is None
    assert index.listing.ids_of_group(4) == [1, 2, 3]


def test_people_are_sorted_by_name(index):
    assert index.listing.people("", 10) == [("Ada", 1, 1), ("Bo", 2, 2)]
    assert index.listing.people("Ada", 1) == [("Bo", 2, 2)]


def test_tracks_are_selected_by_every_filter(index):
    def ids(**how):
        return [track.id for track in index.listing.tracks(0, 10, **how)]

    assert ids(person="Bo") == [1, 3]
    assert ids(cluster=9) == [4]
    assert ids(person="Bo", video=index.tracks([1])[0].video) == [1]
    assert [track.id for track in index.listing.tracks(2, 1)] == [3]


def test_absent_videos_are_listed(tmp_path):
    index = make_index(tmp_path, VIDEOS)
    (tmp_path / "films" / "b.mp4").unlink()
    videos = index.listing.videos("", 10)
    assert [(video.n_tracks, video.is_absent) for video in videos] == [(2, False), (2, True)]
    assert index.listing.n_videos() == 2
    assert index.listing.videos(videos[0].path, 10) == videos[1:]


def test_names_are_stripped_and_checked():
    assert check_name("  Ada  Lovelace ") == "Ada  Lovelace"
    assert check_name(f" {'x' * LONGEST_NAME} ") == "x" * LONGEST_NAME
    assert check_name(" ") is None
    for wrong in ("x" * (LONGEST_NAME + 1), "a\nb", "a\0", "\ud800", "\u202ea"):
        with pytest.raises(UserError, match="at most 200 characters, all printable"):
            check_name(wrong)


def test_days_include_their_first_and_last_second():
    within = Within.days("/v", date(2025, 1, 2), date(2025, 1, 3))
    assert within.folder == "/v"
    assert within.since == datetime(2025, 1, 2).timestamp()
    assert within.until == datetime(2025, 1, 3, 23, 59, 59, 999999).timestamp()
    assert Within.days(None, None, None) == Within()


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def test_first_and_last_day_of_the_calendar(zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        within = Within.days(None, date.min, date.max)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert within.since < -6e10
    assert within.until > 2e11
