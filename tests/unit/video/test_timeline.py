from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facereel.video.timeline import Timeline

STEP = 0.04


def times(stamps, start=0.0, step=STEP, **how):
    timeline: Timeline[int] = Timeline(start, step, **how)
    timed = list(timeline.run((stamp, i) for i, stamp in enumerate(stamps)))
    assert [frame.frame for frame in timed] == list(range(len(stamps)))
    return timed


def steady(n, start=0.0, step=STEP):
    return [start + step * i for i in range(n)]


def seconds(timed):
    return [round(frame.seconds, 6) for frame in timed]


@pytest.mark.parametrize("start", [0.0, -5.0, 1.4, 95443.0])
def test_a_clock_without_faults_is_kept_from_the_files_start(start):
    timed = times(steady(50, start), start)
    assert seconds(timed) == pytest.approx(steady(50))
    assert not any(frame.jumped for frame in timed)


def test_a_stream_that_starts_later_than_the_file_keeps_its_place():
    assert seconds(times(steady(50, start=5.0))) == pytest.approx(steady(50, start=5.0))


@pytest.mark.parametrize("wrong", [3600.0, 2.0, -3600.0, 0.0])
@pytest.mark.parametrize("place", [0, 1, 20, 48, 49])
@pytest.mark.parametrize("n_wrong", [1, 2, 5])
def test_broken_timestamps_are_mended(wrong, place, n_wrong):
    stamps = steady(60)
    n_wrong = min(n_wrong, 59 - place)
    for i in range(place, place + n_wrong):
        stamps[i] += wrong
    timed = times(stamps)
    assert seconds(timed) == pytest.approx(steady(60), abs=0.21 if place == 0 else 1e-6)
    assert not any(frame.jumped for frame in timed[1:])


@pytest.mark.parametrize("second", [0.0, 0.5, -700.0, 1.5])
def test_a_clock_that_starts_again_goes_on(second):
    timed = times(steady(50) + steady(50, start=second))
    assert seconds(timed) == pytest.approx(steady(100))
    assert [i for i, frame in enumerate(timed) if frame.jumped] == [50]


def test_a_gap_stays_and_is_marked():
    timed = times(steady(50) + steady(50, start=30.0))
    assert seconds(timed) == pytest.approx(steady(50) + steady(50, start=30.0))
    assert [i for i, frame in enumerate(timed) if frame.jumped] == [50]


def test_a_gap_longer_than_can_be_is_another_clock():
    timed = times(steady(50) + steady(50, start=95443.0), longest_gap=600.0)
    assert seconds(timed) == pytest.approx(steady(100))
    assert timed[50].jumped


def test_no_clock_at_all_counts_frames():
    assert seconds(times([None] * 50)) == pytest.approx(steady(50))


def test_some_frames_without_a_timestamp_lie_between_the_others():
    stamps = [stamp if i % 3 == 0 else None for i, stamp in enumerate(steady(50))]
    assert seconds(times(stamps)) == pytest.approx(steady(50))


@pytest.mark.parametrize("step", [STEP, 5.0])
def test_slides_are_not_gaps_whatever_the_header_says(step):
    timed = times([0.0, 5.0, 10.0, 17.0, 22.0, 60.0], step=step)
    assert seconds(timed) == [0.0, 5.0, 10.0, 17.0, 22.0, 60.0]
    assert not any(frame.jumped for frame in timed)


def test_many_frames_of_slides_keep_a_broken_timestamp_from_the_rest():
    stamps = steady(30, step=5.0)
    stamps[12] += 3600
    assert seconds(times(stamps, step=5.0)) == pytest.approx(steady(30, step=5.0))


@example([0.0, 1e-25], 0.0, 1.0)
@example([None, -1e-101, 0.0], 0.0, 1.0)
@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=60), st.floats(-100, 100), st.floats(1e-3, 10))
def test_time_rises_whatever_the_timestamps_are(stamps, start, step):
    timed = times(stamps, start, step)
    assert all(b.seconds > a.seconds for a, b in pairwise(timed))
    assert all(frame.seconds >= -1e-6 for frame in timed)
