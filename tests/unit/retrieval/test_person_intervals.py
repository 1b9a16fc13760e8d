import shutil
from pathlib import Path

import cv2
import pytest
from drawn_people import draw_image
from films import make_film

import facereel
from facereel.errors import UserError
from facereel.retrieval.calibration import Calibration
from facereel.retrieval.face_search import FaceSearch
from facereel.retrieval.intervals import Interval
from facereel.retrieval.person_intervals import Person, Sighting, find_intervals, intervals_of
from facereel.retrieval.track_index import Track, TrackIndex, Within

# Drawn people: one person's features are up to 0.03 apart, two people's 0.08 and more.
CALIBRATION = Calibration(22.0, 400.0)


def sighting(start_s, end_s, certain=True, video="a", number=0):
    track = Track(number, video, number, start_s, end_s, None, None, None, "", Path())
    return Sighting(track, 0.1, 0.9, certain)


def spans(intervals):
    return [(round(one.start_s, 3), round(one.end_s, 3)) for one in intervals]


def test_half_a_step_is_added_at_both_ends_but_not_before_the_start():
    assert spans(intervals_of("Ada", [sighting(0, 2), sighting(4, 6)])) == [(0, 2.1), (3.9, 6.1)]


def test_tracks_within_the_gap_are_one_interval():
    found = intervals_of("Ada", [sighting(0, 2, number=0), sighting(3, 4, number=1)], gap_s=1.0)
    assert found == [Interval("a", 0, 4.1, ("Ada",), (0, 1), 0.1, 0.9)]
    assert len(intervals_of("Ada", [sighting(0, 2), sighting(3, 4)], gap_s=0.7)) == 2


def test_brief_track_next_to_an_interval_extends_it():
    assert spans(intervals_of("Ada", [sighting(0, 2), sighting(2.4, 2.8, certain=False)])) == [(0, 2.9)]


@pytest.mark.parametrize(
    "brief",
    [
        sighting(5, 5.4, certain=False),  # far from the interval
        sighting(1.6, 2.2, certain=False),  # another face at the same time
        sighting(2.4, 2.8, certain=False, video="b"),
    ],
)
def test_brief_track_that_may_be_someone_else_is_left_out(brief):
    assert spans(intervals_of("Ada", [sighting(0, 2), brief])) == [(0, 2.1)]
    assert intervals_of("Ada", [brief]) == []


def test_tracks_without_times_are_an_error():
    with pytest.raises(UserError, match="a: the tracks of a prepared data set have no times"):
        intervals_of("Ada", [sighting(None, None)])


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    make_film(folder / "duo.mp4", "Anna", "Cleo", seconds=3, seed=3)
    make_film(folder / "solo" / "Anna.mp4", "Anna", seconds=3, appear_s=1.2)
    make_film(folder / "solo" / "Bert.mp4", "Bert", seconds=1)
    index = facereel.index_videos(folder, out=folder / "index")
    index.set_calibration(CALIBRATION)
    for name in ("Anna", "Bert", "Cleo"):
        cv2.imwrite(str(folder / f"{name}.png"), draw_image(name, seed=8))
    return folder


@pytest.fixture
def search(films):
    return FaceSearch(films / "index")


def person(search, films, name):
    return Person(name, search.queries(films / f"{name}.png"))


@pytest.mark.slow
def test_person_is_found_in_every_video_at_the_right_time(search, films):
    duo, solo = find_intervals(search, [person(search, films, "Anna")])
    assert (duo.video, solo.video) == (str(films / "duo.mp4"), str(films / "solo" / "Anna.mp4"))
    assert (duo.start_s, duo.end_s) == pytest.approx((0.0, 3.0), abs=0.2)
    assert (solo.start_s, solo.end_s) == pytest.approx((1.2, 3.0), abs=0.2)
    assert solo.people == ("Anna",)
    assert solo.probability > 0.5


@pytest.mark.slow
def test_people_together_and_without_each_other(search, films):
    anna, bert, cleo = (person(search, films, name) for name in ("Anna", "Bert", "Cleo"))
    (found,) = find_intervals(search, [anna, cleo])
    assert (found.video, found.people) == (str(films / "duo.mp4"), ("Anna", "Cleo"))
    assert len(found.tracks) == 2
    assert find_intervals(search, [anna, bert]) == []
    (alone,) = find_intervals(search, [anna], [cleo])
    assert alone.video == str(films / "solo" / "Anna.mp4")


@pytest.mark.slow
def test_one_face_is_not_two_people(search, films):
    anna = person(search, films, "Anna")
    twin = Person("twin", search.faces(draw_image("Anna", seed=9)))
    assert find_intervals(search, [anna, twin]) == []


@pytest.mark.slow
def test_named_tracks_are_certain_and_other_names_are_not_the_person(films, tmp_path):
    shutil.copytree(films / "index", tmp_path / "index")
    index = TrackIndex(tmp_path / "index")
    (bert,) = index.tracks(video=str(films / "solo" / "Bert.mp4"))
    (anna,) = index.tracks(video=str(films / "solo" / "Anna.mp4"))
    index.people.name([bert.id], "Anna A.")  # wrong, but the user says it
    index.people.name([anna.id], "Someone")
    search = FaceSearch(tmp_path / "index")
    who = Person("Anna A.", search.queries(films / "Anna.png"), "Anna A.")
    found = {Path(one.video).name: one for one in find_intervals(search, [who])}
    assert found.keys() == {"duo.mp4", "Bert.mp4"}
    assert (found["Bert.mp4"].probability, found["Bert.mp4"].distance) == (1.0, None)
    within = Within(folder=str(films / "solo"))
    assert [one.video for one in find_intervals(search, [who], within=within)] == [bert.video]


@pytest.mark.slow
def test_all_probable_tracks_are_found_however_many(search, films, monkeypatch):
    monkeypatch.setattr("facereel.retrieval.face_search._FIRST_TRACKS", 1)
    assert len(search.probable(search.queries(films / "Anna.png"))) == 2


@pytest.mark.slow
def test_without_a_calibration_the_error_says_how_to_calibrate(search, films, monkeypatch):
    monkeypatch.setattr(TrackIndex, "calibration", None)
    with pytest.raises(UserError, match=r"has no calibration.*facereel convert --index .* --calibrate PREPARED"):
        find_intervals(search, [person(search, films, "Anna")])


def test_within_includes_what_the_index_searches():
    track = sighting(0, 1, video="/films/2024/a.mp4").track._replace(date=100.0)
    assert Within().includes(track)
    assert Within(folder="/films/").includes(track)
    assert not Within(folder="/film").includes(track)
    assert Within(since=100.0, until=100.0).includes(track)
    assert not Within(since=101.0).includes(track)
    assert not Within(until=99.0).includes(track)
    assert not Within(since=0.0).includes(track._replace(date=None))
