from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facereel.retrieval.intervals import Interval, merge, together, without

# On a grid of tenths of a second, so that a slow reference can count cells.
N_CELLS = 60


@st.composite
def some_intervals(draw, person):
    spans = st.tuples(st.sampled_from("ab"), st.integers(0, N_CELLS - 1), st.integers(1, 12), st.floats(0, 1))
    return [
        Interval(video, start / 10, min(N_CELLS, start + length) / 10, (person,), (start,), 1 - p, p)
        for video, start, length, p in draw(st.lists(spans, max_size=12))
    ]


def cells(intervals):
    """The tenths of a second that are covered: the slow reference."""
    return {
        (one.video, cell)
        for one in intervals
        for cell in range(N_CELLS)
        if one.start_s - 1e-9 <= cell / 10 and (cell + 1) / 10 <= one.end_s + 1e-9
    }


def closed(covered, gap):
    """Fill gaps of at most this number of cells."""
    filled = set(covered)
    for video in "ab":
        last = None
        for cell in range(N_CELLS):
            if (video, cell) in covered:
                if last is not None and cell - last - 1 <= gap:
                    filled |= {(video, between) for between in range(last, cell)}
                last = cell
    return filled


@given(some_intervals("Ada"), st.integers(0, 15))
def test_merge_covers_the_intervals_and_their_short_gaps(intervals, gap):
    merged = merge(intervals, gap / 10)
    assert cells(merged) == closed(cells(intervals), gap)
    for before, after in pairwise(merged):
        assert before.video < after.video or after.start_s - before.end_s > gap / 10
    assert {track for one in merged for track in one.tracks} == {track for one in intervals for track in one.tracks}
    for one in merged:
        inside = [i for i in intervals if i.video == one.video and one.start_s <= i.start_s and i.end_s <= one.end_s]
        assert one.probability == max(i.probability for i in inside)
        assert one.distance == min(i.distance for i in inside)


@given(some_intervals("Ada"), some_intervals("Alan"))
def test_together_is_the_intersection(ada, alan):
    found = together(ada, alan)
    assert cells(found) == cells(ada) & cells(alan)
    assert all(one.people == ("Ada", "Alan") for one in found)
    assert cells(together(alan, ada)) == cells(found)


@given(some_intervals("Ada"), some_intervals("Alan"))
def test_without_is_the_difference(ada, alan):
    found = without(ada, alan)
    assert cells(found) == cells(ada) - cells(alan)
    assert all(one.people == ("Ada",) for one in found)


@given(some_intervals("Ada"), some_intervals("Alan"), some_intervals("Kurt"))
def test_three_people_are_together_where_each_pair_is(ada, alan, kurt):
    found = together(together(ada, alan), kurt)
    assert cells(found) == cells(ada) & cells(alan) & cells(kurt)


@given(some_intervals("Ada"), some_intervals("Alan"), some_intervals("Kurt"))
def test_people_of_one_list_are_not_joined(ada, alan, kurt):
    found = merge([*ada, *alan], 1.0)
    assert cells([one for one in found if one.people == ("Ada",)]) == cells(merge(ada, 1.0))
    assert cells(together([*ada, *alan], kurt)) == (cells(ada) | cells(alan)) & cells(kurt)
    assert cells(without(ada, [*alan, *kurt])) == cells(ada) - cells(alan) - cells(kurt)


def test_together_has_the_values_of_the_less_probable_person():
    (found,) = together(
        [Interval("a", 0, 4, ("Ada",), (3,), 0.1, 0.9)], [Interval("a", 1, 2, ("Alan",), (1,), 0.2, 0.6)]
    )
    assert found == Interval("a", 1, 2, ("Ada", "Alan"), (1, 3), 0.2, 0.6)


def test_intervals_that_touch_are_not_together():
    assert together([Interval("a", 0, 1, ("Ada",))], [Interval("a", 1, 2, ("Alan",))]) == []


def test_a_gap_of_exactly_the_limit_is_closed():
    parts = [Interval("a", 0.0, 1.1), Interval("a", 1.4, 2.0)]  # 1.4 - 1.1 is greater than 0.3
    assert len(merge(parts, 0.3)) == 1
    assert len(merge(parts, 0.29)) == 2


@pytest.mark.parametrize("end_s", [1.0, 0.5, float("nan")])
def test_an_interval_must_end_after_its_start(end_s):
    with pytest.raises(ValueError, match="must end after its start"):
        Interval("a", 1.0, end_s)


def test_a_negative_gap_is_an_error():
    with pytest.raises(ValueError, match="gap_s=-1: must be at least 0"):
        merge([], -1)
