import pytest

from facereel.system.text import format_timestamp


@pytest.mark.parametrize(
    ("seconds", "digits", "expected"),
    [
        (0.0, 0, "0:00"),
        (59.99, 0, "0:59"),
        (61, 0, "1:01"),
        (3725.0, 0, "1:02:05"),
        (59.96, 1, "0:59.9"),  # never 0:60.0
        (2.8000000000000003, 1, "0:02.8"),
        (0.6 - 1e-9, 1, "0:00.6"),  # as frames' clocks round
        (36000.25, 2, "10:00:00.25"),
    ],
)
def test_timestamps(seconds, digits, expected):
    assert format_timestamp(seconds, digits) == expected
