from fractions import Fraction

import pytest
from films import encode_film, frames

from facereel.errors import UserError
from facereel.video.media_facts import MediaFacts, parse_timecode, read_media_facts

NTSC = Fraction(30000, 1001)


def film(path, rate, timecode=None, codec="libx264", **how):
    def change(stream):
        if timecode is not None:
            stream.metadata["timecode"] = timecode

    return encode_film(path, codec, frames("Anna", seconds=2, fps=25), rate, change=change, **how)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "timecode", "expected"),
    [
        ("a.mov", "libx264", NTSC, "01:00:00;00", MediaFacts(NTSC, 107892, True)),
        ("a.mov", "libx264", NTSC, "01:00:00:00", MediaFacts(NTSC, 108000, False)),
        ("a.mp4", "libx264", Fraction(24000, 1001), "10:00:00:12", MediaFacts(Fraction(24000, 1001), 864012, False)),
        ("a.mxf", "mpeg2video", 25, "02:00:00:00", MediaFacts(Fraction(25), 180000, False)),
        ("a.mkv", "libx264", 50, "00:59:58:00", MediaFacts(Fraction(50), 179900, False)),
        ("a.mp4", "libx264", 50, None, MediaFacts(Fraction(50), 0, False)),
        ("a.avi", "mjpeg", 10, None, MediaFacts(Fraction(10), 0, False)),
        # Headers that round rates of television.
        ("a.mp4", "libx264", Fraction(2997, 100), None, MediaFacts(NTSC, 0, False)),
        ("a.mp4", "libx264", Fraction(2398, 100), None, MediaFacts(Fraction(24000, 1001), 0, False)),
    ],
)
def test_rate_and_timecode_are_those_of_the_file(tmp_path, name, codec, rate, timecode, expected):
    found = read_media_facts(film(tmp_path / name, rate, timecode, codec))
    assert (found.rate, found.start_frame, found.drop_frame) == (
        expected.rate,
        expected.start_frame,
        expected.drop_frame,
    )
    assert found.duration_s == pytest.approx(50 / rate, abs=0.05)


def test_variable_rate_is_the_average(tmp_path):
    times_ms = [40 * number for number in range(25)] + [1000 + 80 * number for number in range(25)]
    found = read_media_facts(film(tmp_path / "a.mp4", 25, times_ms=times_ms))
    assert float(found.rate) == pytest.approx(50 / 3, rel=0.1)


@pytest.mark.parametrize(("rate", "nominal"), [(NTSC, 30), (2 * NTSC, 60)])
def test_drop_frame_agrees_with_counting(rate, nominal):
    """The reference counts frame by frame and skips the first numbers of each minute but every tenth."""
    number = 0
    expected = {}
    for minutes in range(21):
        for seconds in range(60):
            for frame in range(nominal):
                if seconds == 0 and frame < nominal // 15 and minutes % 10:
                    continue
                expected[f"00:{minutes:02}:{seconds:02};{frame:02}"] = number
                number += 1
    for timecode, number in expected.items():
        assert parse_timecode(timecode, rate) == (number, True)


@pytest.mark.parametrize("timecode", ["", "1:00", "00:60:00:00", "00:00:60:00", "00:00:00:25", "ab:00:00:00"])
def test_an_invalid_timecode_counts_as_missing(timecode):
    assert parse_timecode(timecode, Fraction(25)) == (0, False)


def test_only_ntsc_rates_drop_frames():
    assert parse_timecode("01:00:00;00", Fraction(25)) == (90000, False)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_media_facts(tmp_path / "a.mp4")
