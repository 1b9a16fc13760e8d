import dataclasses
import errno
import fcntl
import shutil
from typing import Any

import pytest
import torch
from drawn_faces import make_folder
from safetensors.torch import load_file, save_file

from facereel.data import FaceSet, Skipped, load_faces, read_folder
from facereel.data.crop_store import CropStore
from facereel.evaluation import ClosedSet, features
from facereel.evaluation.encode import encode_part
from facereel.evaluation.features import encode_features, rows_of_split
from facereel.models import VideoHasher

CONFIG: dict[str, Any] = {
    "preprocess": {"_target_": "facereel.models.Preprocess", "size": 32},
    "encoder": {"_target_": "facereel.models.CasiaEncoder", "batch_norm": True, "width": 0.125},
    "pooling": {"_target_": "facereel.models.LogCovariancePooling"},
    "head": {"_target_": "facereel.models.SeparateHeads", "n_bits": 12},
}


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("faces"), n_people=3)
    return load_faces(read_folder(root, Skipped()), Skipped(), size=32)


@pytest.fixture
def faces(cut, tmp_path):
    """With its crops in two files, as prepare leaves them."""
    n = len(cut.rows)
    crops = cut.crops[torch.arange(n)].clone()
    for name, part in (("a", crops[: n // 2]), ("b", crops[n // 2 :])):
        save_file({"crops": part.contiguous()}, tmp_path / f"{name}.safetensors")
    block = (torch.arange(n) >= n // 2).long()
    place = torch.arange(n) - block * (n // 2)
    store = CropStore([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], block, place, 32)
    return dataclasses.replace(cut, crops=store)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VideoHasher(CONFIG).eval()


@pytest.fixture
def encoded(monkeypatch):
    """How many images were encoded."""
    count = []
    real = FaceSet.images
    monkeypatch.setattr(FaceSet, "images", lambda self, rows: count.append(len(rows)) or real(self, rows))
    return lambda: sum(count), count.clear


def in_loops(model, faces, rows):
    with torch.inference_mode():
        return torch.cat([model.features(faces.images([row]) / 255) for row in rows])


def test_requested_rows_have_features_and_others_zeros(model, faces):
    found = encode_features(model.train(), faces, [7, 2, 2, 11])
    assert found.shape == (len(faces.rows), 40)
    assert torch.allclose(found[[2, 7, 11]], in_loops(model.eval(), faces, [2, 7, 11]), atol=1e-5)
    assert not found[[0, 1, 3]].any()


def test_waits_for_features_that_another_process_encodes(model, faces, tmp_path, encoded):
    whole = encode_features(model, faces, range(4), folder=tmp_path)
    (file,) = tmp_path.glob("features-*.safetensors")
    content = file.read_bytes()
    file.unlink()
    count, forget = encoded
    forget()
    with (tmp_path / f".{file.stem}.lock").open("w") as lock:  # what the other one holds
        fcntl.flock(lock, fcntl.LOCK_EX)

        def tell(note):
            assert "another process" in note
            file.write_bytes(content)
            fcntl.flock(lock, fcntl.LOCK_UN)

        assert torch.equal(encode_features(model, faces, range(4), folder=tmp_path, report=tell), whole)
    assert count() == 0


def test_a_file_system_without_locks_does_not_end_the_run(model, faces, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    expected = encode_features(model, faces, range(4))
    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert torch.equal(encode_features(model, faces, range(4), folder=tmp_path), expected)
    assert len(list(tmp_path.glob("features-*"))) == 1


def test_features_are_stored_and_extended(model, faces, tmp_path, encoded):
    n_encoded, forget = encoded
    told = []
    first = encode_features(model, faces, range(5), folder=tmp_path, advance=lambda done, of: told.append((done, of)))
    assert n_encoded() == 5
    assert told == [(5, 5)]
    forget()
    again = encode_features(model, faces, range(5), folder=tmp_path)
    assert n_encoded() == 0
    assert torch.equal(again, first)
    more = encode_features(model, faces, range(3, 9), folder=tmp_path)
    assert n_encoded() == 4
    assert torch.allclose(more[:9], in_loops(model, faces, range(9)), atol=1e-5)
    (file,) = tmp_path.glob("features-*")
    assert load_file(file)["have"].tolist() == [True] * 9 + [False] * (len(faces.rows) - 9)


def another_encoder(model, faces):
    with torch.no_grad():
        model.encoder.layers[-2].weight[0, 0, 0, 0] += 1
    return model, faces


def other_statistics(model, faces):
    model.encoder.layers[1].running_mean += 1e-3
    return model, faces


def with_preprocess(**changes):
    def change(model, faces):
        other = VideoHasher({**CONFIG, "preprocess": {**CONFIG["preprocess"], **changes}})
        other.load_state_dict(model.state_dict())
        return other, faces

    return change


def with_faces(**changes):
    return lambda model, faces: (model, dataclasses.replace(faces, **changes))


shifted = with_faces(central_fraction=0.8, vertical_offset=0.1)


def other_rows(model, faces):
    order = torch.arange(len(faces.rows)).flip(0)
    return model, dataclasses.replace(faces, crops=faces.crops.take(order))


def other_images_in_memory(model, faces):
    """As stills are that are not prepared, beside clips that are."""
    crops, half = faces.crops, int((faces.crops.block == 0).sum())
    stills = CropStore.of(255 - crops[torch.arange(half, len(faces.rows))])
    return model, dataclasses.replace(faces, crops=crops.take(torch.arange(half)) + stills)


@pytest.mark.parametrize(
    "change",
    [
        another_encoder,
        other_statistics,
        other_rows,
        other_images_in_memory,
        with_preprocess(flip_tta=True),
        with_preprocess(grayscale=True),
        with_preprocess(size=24),
        with_preprocess(std=[0.5, 0.5, 0.5]),
        with_faces(grayscale=True),
        with_faces(central_fraction=0.8),
        shifted,
    ],
)
def test_stored_features_of_other_inputs_are_not_used(change, model, faces, tmp_path):
    encode_features(model, faces, range(4), folder=tmp_path)
    if change is shifted:
        part = dataclasses.replace(faces, central_fraction=0.8)
        encode_features(model, part, range(4), folder=tmp_path)
    model, faces = change(model, faces)
    found = encode_features(model, faces, range(len(faces.rows)), folder=tmp_path)
    assert torch.allclose(found, in_loops(model, faces, range(len(faces.rows))), atol=1e-5)


def test_unprepared_sets_of_stills_have_different_keys(model, faces, tmp_path):
    _, first = other_images_in_memory(model, faces)
    _, second = other_images_in_memory(model, faces)
    second.crops.blocks[-1].zero_()
    rows = range(len(faces.rows))
    encode_features(model, first, rows, folder=tmp_path)
    found = encode_features(model, second, rows, folder=tmp_path)
    assert torch.allclose(found, in_loops(model, second, rows), atol=1e-5)


def test_key_ignores_the_head_and_the_location_of_the_data_set(model, faces, tmp_path, encoded):
    n_encoded, forget = encoded
    (tmp_path / "crops").mkdir()
    for name in "ab":
        shutil.move(tmp_path / f"{name}.safetensors", tmp_path / "crops" / f"{name}.safetensors")

    def opened(root):
        store = CropStore(
            [root / "crops" / f"{name}.safetensors" for name in "ab"], faces.crops.block, faces.crops.place, 32
        )
        return dataclasses.replace(faces, crops=store)

    first = encode_features(model, opened(tmp_path), range(6), folder=tmp_path)
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    forget()
    other = VideoHasher({**CONFIG, "head": {**CONFIG["head"], "n_bits": 7}})
    other.encoder.load_state_dict(model.encoder.state_dict())
    moved = tmp_path.with_name("moved")
    assert torch.equal(encode_features(other, opened(moved), range(6), folder=moved), first)
    assert n_encoded() == 0


@pytest.mark.parametrize("content", [b"", b"x" * 200, None])
def test_damaged_file_is_rewritten(content, model, faces, tmp_path):
    expected = encode_features(model, faces, range(4), folder=tmp_path)
    (file,) = tmp_path.glob("features-*")
    whole = file.read_bytes()
    if content is None:
        save_file({"features": torch.ones(3, 40), "have": torch.ones(3, dtype=torch.bool)}, file)
    else:
        file.write_bytes(content)
    assert torch.equal(encode_features(model, faces, range(4), folder=tmp_path), expected)
    assert file.read_bytes() == whole


def test_unwritable_folder_is_reported_and_the_run_continues(model, faces, tmp_path):
    told = []
    found = encode_features(model, faces, range(4), folder=tmp_path / "absent", report=told.append)
    assert torch.equal(found, encode_features(model, faces, range(4)))
    (line,) = told
    assert line.startswith("note: features are not stored for the next run: ")
    assert "\n" not in line


def test_full_disk_is_reported_and_the_run_continues(model, faces, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "save_file", full)
    told = []
    encode_features(model, faces, range(4), folder=tmp_path, report=told.append)
    assert "No space left on device" in told[0]
    assert not list(tmp_path.glob("*features-*"))


def test_codes_from_features_equal_codes_from_images(model, faces):
    split = ClosedSet(0.3, 0.2).split(faces, 0)
    held = faces.with_features(encode_features(model, faces, rows_of_split(split)))
    for part in (split.train, split.val, split.test):
        expected, found = encode_part(model, faces, part), encode_part(model, faces, part, features=held)
        assert found.keys() == expected.keys()
        for kind in expected:
            assert torch.allclose(found[kind].scores, expected[kind].scores, atol=1e-4)
            assert torch.equal(found[kind].labels, expected[kind].labels)


def test_rows_of_a_split_are_those_trained_on_or_searched(faces):
    split = ClosedSet(0.3, 0.2).split(faces, 0)
    rows = set(rows_of_split(split))
    for part in (split.train, split.val, split.test):
        assert {row for clip in part.clips for row in clip.rows} <= rows
        assert {still.row for still in part.stills} <= rows
