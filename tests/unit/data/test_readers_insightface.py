import cv2
import numpy as np
import pytest
from drawn_faces import make_insightface_bin, write_python2_bin

from facereel.data import Skipped, load_faces, read_insightface
from facereel.errors import UserError


def test_images_of_a_matching_pair_have_the_same_name(tmp_path):
    make_insightface_bin(tmp_path / "lfw.bin", n_pairs=2)
    rows = list(read_insightface(tmp_path / "lfw.bin", Skipped()))
    assert [(row.key, row.person) for row in rows] == [
        ("000000", "000000"),
        ("000001", "000000"),
        ("000002", "000002"),
        ("000003", "000003"),
    ]
    assert all(row.clip == "" and row.source == row.key for row in rows)


def test_crops_at_the_template_margin_equal_the_images(tmp_path):
    path = tmp_path / "lfw.bin"
    make_insightface_bin(path, n_pairs=3)
    from facereel.storage.insightface_bin import read_insightface_bin

    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in read_insightface_bin(path)[0]]
    faces = load_faces(read_insightface(path, Skipped()), Skipped(), size=112, margin=1.2)
    for still, image in zip(faces.stills, images, strict=True):
        assert np.array_equal(faces.images([still.row])[0].permute(1, 2, 0).numpy()[:, :, ::-1], image)
    # A wider crop has the same face smaller, and a border around it.
    wide = load_faces(read_insightface(path, Skipped()), Skipped(), size=224, margin=2.4)
    inner = wide.images([0])[0][:, 56:168, 56:168].permute(1, 2, 0).numpy()[:, :, ::-1]
    assert np.abs(inner.astype(int) - images[0]).max() <= 1


def test_undecodable_image_is_counted(tmp_path):
    good = cv2.imencode(".jpg", np.full((112, 112, 3), 90, np.uint8))[1].tobytes()
    path = write_python2_bin(tmp_path / "a.bin", [good, b"no image", b"", good], [True, False], arrays=True)
    skipped = Skipped()
    faces = load_faces(read_insightface(path, skipped), skipped, size=16)
    assert [still.key for still in faces.stills] == ["000000", "000003"]
    assert skipped.counts == {"image that cannot be decoded": 1, "empty image file": 1}


def test_other_file_type_raises(tmp_path):
    for name in (tmp_path, tmp_path / "lfw.pickle"):
        with pytest.raises(UserError, match=r"is one file that ends in \.bin"):
            list(read_insightface(name, Skipped()))
