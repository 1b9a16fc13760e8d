import pytest
import torch
from drawn_faces import make_folder

from facereel.data import Skipped, load_faces, read_folder
from facereel.evaluation import ClosedSet, LeaveOneOut
from facereel.evaluation.baselines import compare
from facereel.models import VideoHasher
from facereel.models.hasher import DEFAULT_CONFIG


def hasher(n_bits):
    return VideoHasher({**DEFAULT_CONFIG, "head": {"_target_": "facereel.models.SharedHead", "n_bits": n_bits}})


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("faces"), n_people=6, n_clips=4)
    return load_faces(read_folder(root, Skipped()), Skipped(), size=24)


def test_drawn_faces_are_found_by_their_pixels_but_not_by_chance(faces):
    """Each drawn person has a colour of their own, so pixels find them; 6 people by chance give about 0.3."""
    split = ClosedSet(0.3, 0.0).split(faces, 0)
    model = hasher(12)
    before = torch.get_rng_state()
    table = compare(model, faces, split, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(table) == [
        "raw pixels, real-valued",
        "raw pixels, LSH, 12 bits",
        "raw pixels, ITQ, 12 bits",
        "untrained network, 12 bits",
    ]
    for name, values in table.items():
        assert set(values) == {"still_to_clip", "clip_to_still", "clip_to_clip", "still_to_still"}
        if "real-valued" in name or "ITQ" in name:
            assert values["clip_to_clip"] > 0.6, name
    assert compare(hasher(12), faces, split, seed=0) == table
    assert compare(hasher(12), faces, split, seed=1) != table


def test_leave_one_out_is_compared_too(faces):
    # Nothing was trained on, and what is searched is not for fitting.
    table = compare(hasher(8), faces, LeaveOneOut().split(faces, 0), seed=0)
    assert list(table) == ["raw pixels, real-valued", "untrained network, 8 bits"]


def test_itq_is_left_out_where_it_cannot_be_fitted(faces):
    table = compare(hasher(200), faces, ClosedSet(0.3, 0.0).split(faces, 0), seed=0)
    assert [name.split(",")[0] for name in table] == ["raw pixels", "raw pixels", "untrained network"]
    assert not any("ITQ" in name for name in table)
