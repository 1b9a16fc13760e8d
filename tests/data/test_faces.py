import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from drawn_faces import draw_face, make_folder, make_stills, write

from facereel.data import Row, Skipped, load_faces, read_folder, read_stills, write_manifest
from facereel.data.crops import crop_face
from facereel.data.faces import evenly_spaced
from facereel.errors import UserError


def test_a_picture_that_does_not_decode_is_counted_and_its_clip_kept(tmp_path):
    make_folder(tmp_path, n_people=2)
    (tmp_path / "clips" / "p0" / "c0" / "1.png").write_bytes(b"not a picture")
    (tmp_path / "clips" / "p0" / "c1" / "0.png").write_bytes(b"")
    for i in range(3):
        (tmp_path / "clips" / "p1" / "c2" / f"{i}.png").write_bytes(b"x")
    skipped = Skipped()
    faces = load_faces(read_folder(tmp_path, skipped), skipped, size=16)
    assert skipped.counts == {"picture that does not decode": 5}
    lengths = {clip.key: len(clip.rows) for clip in faces.clips}
    assert lengths == {"p0/c0": 2, "p0/c1": 2, "p0/c2": 3, "p1/c0": 3, "p1/c1": 3}
    assert [faces.rows[row].key for row in faces.clips[0].rows] == ["clips/p0/c0/0.png", "clips/p0/c0/2.png"]


def test_nothing_left_is_fatal_and_says_why(tmp_path):
    write(tmp_path / "a" / "1.jpg", draw_face(0, np.random.default_rng(0)))
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    skipped = Skipped()
    with pytest.raises(UserError, match=r"the data set is empty: 1 x picture that does not decode \(stills/a/1.jpg\)"):
        load_faces(read_stills(tmp_path, skipped), skipped)
    with pytest.raises(UserError, match="there are no pictures in it"):
        load_faces([], Skipped())


def test_grey_crops_hold_one_channel(tmp_path):
    make_stills(tmp_path, {"a": 1})
    colour = load_faces(read_stills(tmp_path, Skipped()), Skipped(), size=20)
    grey = load_faces(read_stills(tmp_path, Skipped()), Skipped(), size=20, grey=True)
    assert colour.crops.shape == (1, 3, 20, 20)
    assert grey.crops.shape == (1, 1, 20, 20)
    luma = (colour.crops[0].float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0)
    assert (luma - grey.crops[0, 0].float()).abs().max() <= 1


def test_crops_repeat_the_border_outside_the_picture():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    crop = crop_face(image, (-2, -2, 4, 4), size=4, margin=1.0)
    assert (crop[:2, :2] == image[0, 0]).all()
    assert np.array_equal(crop[2:, 2:], image[:2, :2])


def test_margin_widens_the_crop():
    image = np.zeros((40, 40, 3), np.uint8)
    image[15:25, 15:25] = 255
    assert crop_face(image, (15, 15, 10, 10), size=10, margin=1.0).min() == 255
    wide = crop_face(image, (15, 15, 10, 10), size=20, margin=2.0)
    assert (wide[5:15, 5:15] == 255).all()
    assert wide.astype(int).sum() == 255 * 3 * 100


@pytest.mark.parametrize(("count", "expected"), [(1, [5]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10)))])
def test_evenly_spaced(count, expected):
    assert evenly_spaced(range(10), count) == expected


def test_the_manifest_is_read_back(tmp_path):
    rows = [Row("Zoë", "c", "s", "k", "f.jpg", box=(1, 2, 3, 4)), Row("b", "", "s2", "k2", "g.mp4", position=7)]
    write_manifest(rows, tmp_path / "manifest.parquet")
    table = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert table[0]["person"] == "Zoë"
    assert [table[0][f"box_{name}"] for name in ("left", "top", "width", "height")] == [1.0, 2.0, 3.0, 4.0]
    assert table[1]["box_left"] is None
    assert table[1]["position"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]
