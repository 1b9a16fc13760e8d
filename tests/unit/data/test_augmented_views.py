"""scripts/tools/augmented_views.py, on drawn faces."""

import sys

import augmented_views
import pytest
import torch
from commands import run
from prepared_faces import NO_DETECTOR, make_trees

from facereel.data import open_prepared


def test_each_frame_gets_views_after_it_and_stills_get_none(tmp_path, monkeypatch, capsys):
    root = make_trees(tmp_path)
    before, after = root / "prepared", root / "views"
    assert run("prepare", "youtube_faces", root / "ytf", before, "--stills", root / "lfw", *NO_DETECTOR) == 0
    monkeypatch.setattr(sys, "argv", ["augmented_views.py", str(before), str(after), "--views", "3"])
    augmented_views.main()
    old, new = (open_prepared(folder).face_set() for folder in (before, after))
    assert [clip.key for clip in new.clips] == [clip.key for clip in old.clips]
    assert [still.key for still in new.stills] == [still.key for still in old.stills]
    for one, other in zip(old.clips, new.clips, strict=True):
        frames, views = old.images(one.rows), new.images(other.rows)
        assert torch.equal(views[::3], frames)
        for frame, some in zip(frames, views.split(3), strict=True):
            assert all(view.ne(frame).any() for view in some[1:])
            assert some[1].ne(some[2]).any()
    for still, copied in zip(old.stills, new.stills, strict=True):
        assert torch.equal(new.images(copied.rows), old.images(still.rows))
    with pytest.raises(SystemExit):
        augmented_views.main()
    assert f"{after} exists: choose another folder" in capsys.readouterr().err
