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
def test_regular_timestamps_are_kept(start):
    timed = times(steady(50, start), start)
    assert seconds(timed) == pytest.approx(steady(50))
    assert not any(frame.jumped for frame in timed)


def test_late_start_of_a_stream_is_kept():
    assert seconds(times(steady(50, start=5.0))) == pytest.approx(steady(50, start=5.0))


@pytest.mark.parametrize("wrong", [3600.0, 2.0, -3600.0, 0.0])
@pytest.mark.parametrize("place", [0, 1, 20, 48, 49])
@pytest.mark.parametrize("n_wrong", [1, 2, 5])
def test_broken_timestamps_are_replaced(wrong, place, n_wrong):
    stamps = steady(60)
    n_wrong = min(n_wrong, 59 - place)
    for i in range(place, place + n_wrong):
        stamps[i] += wrong
    timed = times(stamps)
    assert seconds(timed) == pytest.approx(steady(60), abs=0.21 if place == 0 else 1e-6)
    assert not any(frame.jumped for frame in timed[1:])


@pytest.mark.parametrize("second", [0.0, 0.5, -700.0, 1.5])
def test_time_continues_when_timestamps_start_again(second):
    timed = times(steady(50) + steady(50, start=second))
    assert seconds(timed) == pytest.approx(steady(100))
    assert [i for i, frame in enumerate(timed) if frame.jumped] == [50]


def test_gap_is_kept_and_marked():
    timed = times(steady(50) + steady(50, start=30.0))
    assert seconds(timed) == pytest.approx(steady(50) + steady(50, start=30.0))
    assert [i for i, frame in enumerate(timed) if frame.jumped] == [50]


def test_gap_above_the_limit_is_another_clock():
    timed = times(steady(50) + steady(50, start=95443.0), longest_gap=600.0)
    assert seconds(timed) == pytest.approx(steady(100))
    assert timed[50].jumped


def test_frames_are_counted_without_timestamps():
    assert seconds(times([None] * 50)) == pytest.approx(steady(50))


def test_missing_timestamps_are_interpolated():
    stamps = [stamp if i % 3 == 0 else None for i, stamp in enumerate(steady(50))]
    assert seconds(times(stamps)) == pytest.approx(steady(50))


@pytest.mark.parametrize("step", [STEP, 5.0])
def test_slides_are_not_gaps(step):
    timed = times([0.0, 5.0, 10.0, 17.0, 22.0, 60.0], step=step)
    assert seconds(timed) == [0.0, 5.0, 10.0, 17.0, 22.0, 60.0]
    assert not any(frame.jumped for frame in timed)


def test_broken_timestamp_among_slides_is_isolated():
    stamps = steady(30, step=5.0)
    stamps[12] += 3600
    assert seconds(times(stamps, step=5.0)) == pytest.approx(steady(30, step=5.0))


@example([0.0, 1e-25], 0.0, 1.0)
@example([None, -1e-101, 0.0], 0.0, 1.0)
@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=60), st.floats(-100, 100), st.floats(1e-3, 10))
def test_time_always_increases(stamps, start, step):
    timed = times(stamps, start, step)
    assert all(b.seconds > a.seconds for a, b in pairwise(timed))
    assert all(frame.seconds >= -1e-6 for frame in timed)
