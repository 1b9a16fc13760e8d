"""Intervals of real people in a film whose pieces are known; the benchmark that composes it."""

import math

import pytest
from evaluate_intervals import PIECES, QUERIES, RATE, compose, covered, images_of, truth

import facereel
from facereel.retrieval.face_search import FaceSearch
from facereel.retrieval.intervals import Interval, together
from facereel.retrieval.person_intervals import Person, find_intervals


def test_truth_of_the_composed_film_is_that_of_its_pieces():
    assert [(one.start_s, one.end_s) for one in truth("film", "pyfeat")] == [
        ((63 + 127 + 111 + 94 + 98 + 88) / RATE, (63 + 127 + 111 + 94 + 98 + 88 + 36) / RATE),
        ((sum(piece.n_frames for piece in PIECES) - 104 - 37) / RATE, (sum(p.n_frames for p in PIECES) - 104) / RATE),
    ]
    # Two pieces that follow each other are one interval.
    assert len(truth("film", "talker")) == 1


def test_precision_and_recall_count_time_within_the_tolerance():
    expected, found = [Interval("a", 1.0, 3.0)], [Interval("a", 0.5, 2.0)]
    assert covered(found, expected, 0.0) == pytest.approx(1.0 / 1.5)
    assert covered(found, expected, 0.2) == pytest.approx(1.2 / 1.5)
    assert covered(expected, found, 0.2) == pytest.approx(1.2 / 2.0)
    assert math.isnan(covered([], expected, 0.2))


def test_people_of_a_composed_film_are_found_within_a_fifth_of_a_second(shared, tmp_path):
    """With black bars; the benchmark also has the film without."""
    videos = shared / "data" / "videos"
    film = tmp_path / "film.mp4"
    compose(videos, film, True)
    facereel.index_videos(film, out=tmp_path / "index")
    search = FaceSearch(tmp_path / "index")
    people = {
        name: Person(name, search.faces(next(images_of(videos / file, start_s)))[:1])
        for name, (file, start_s) in QUERIES.items()
    }
    expected = {name: truth(str(film), name) for name in people}
    for name, person in people.items():
        found = find_intervals(search, [person])
        assert min(covered(found, expected[name], 0.2), covered(expected[name], found, 0.2)) >= 0.95, name
    for one, other in (("cap", "talker"), ("franck", "pyfeat")):
        both = together(expected[one], expected[other])
        found = find_intervals(search, [people[one], people[other]])
        assert min(covered(found, both, 0.2), covered(both, found, 0.2)) >= 0.95, (one, other)
    assert find_intervals(search, [people["cap"], people["franck"]]) == []
