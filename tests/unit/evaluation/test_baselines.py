import pytest
import torch
from drawn_faces import make_folder

from facereel.data import Skipped, load_faces, read_folder
from facereel.errors import UserError
from facereel.evaluation import ClosedSet, LeaveOneOut
from facereel.evaluation.baselines import compare, compare_encoder, fit_head, mean_precisions, starting_encoder
from facereel.evaluation.features import encode_features
from facereel.models import VideoHasher
from facereel.models.hasher import DEFAULT_CONFIG


def hasher(n_bits):
    return VideoHasher({**DEFAULT_CONFIG, "head": {"_target_": "facereel.models.SharedHead", "n_bits": n_bits}})


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("faces"), n_people=6, n_clips=4)
    return load_faces(read_folder(root, Skipped()), Skipped(), size=24)


@pytest.mark.slow
def test_drawn_faces_are_found_by_pixels_but_not_by_chance(faces):
    """Each drawn person has a color of their own, so pixels find them; 6 people by chance give about 0.3."""
    split = ClosedSet(0.3, 0.0).split(faces, 0)
    model = hasher(12)
    before = torch.get_rng_state()
    table = mean_precisions(compare(model, faces, split, seed=0))
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
    assert mean_precisions(compare(hasher(12), faces, split, seed=0)) == table
    assert mean_precisions(compare(hasher(12), faces, split, seed=1)) != table


@pytest.mark.slow
def test_leave_one_out_can_be_compared(faces):
    # Nothing was trained on, and what is searched is not for fitting.
    table = mean_precisions(compare(hasher(8), faces, LeaveOneOut().split(faces, 0), seed=0))
    assert list(table) == ["raw pixels, real-valued", "untrained network, 8 bits"]


@pytest.mark.slow
def test_itq_is_skipped_if_it_cannot_be_fitted(faces):
    table = mean_precisions(compare(hasher(200), faces, ClosedSet(0.3, 0.0).split(faces, 0), seed=0))
    assert [name.split(",")[0] for name in table] == ["raw pixels", "raw pixels", "untrained network"]
    assert not any("ITQ" in name for name in table)


ENCODER = {"_target_": "facereel.models.CasiaEncoder", "batch_norm": True, "width": 0.25}


def starting(n_bits=12, head="LshHead"):
    """As `starting_encoder` builds it."""
    torch.manual_seed(0)
    parts = {"encoder": ENCODER, "pooling": {"_target_": "facereel.models.MeanPooling"}}
    return VideoHasher(
        {**DEFAULT_CONFIG, **parts, "head": {"_target_": f"facereel.models.{head}", "n_bits": n_bits}}
    ).eval()


def features_of(model, faces):
    return faces.with_features(encode_features(model, faces, range(len(faces.rows))))


def cosine_map(features, queries, gallery):
    """Of mean features, by explicit loops; no two cosines are equal."""

    def mean(item):
        rows = item.rows if hasattr(item, "rows") else [item.row]
        total = sum(features.crops[row].double() for row in rows) / len(rows)
        return total / total.norm()

    values = []
    for query in queries:
        others = [item for item in gallery if item.source != query.source]
        ranked = sorted(others, key=lambda item: -(mean(query) @ mean(item)).item())
        found, precisions = 0, []
        for rank, item in enumerate(ranked, start=1):
            if item.person == query.person:
                found += 1
                precisions.append(found / rank)
        if precisions:
            values.append(sum(precisions) / len(precisions))
    return sum(values) / len(values)


@pytest.mark.parametrize("protocol", [ClosedSet(0.3, 0.0), LeaveOneOut()])
def test_the_starting_encoder_is_compared_by_cosine(faces, protocol):
    split = protocol.split(faces, 0)
    model = starting()
    features = features_of(model, faces)
    table = mean_precisions(compare_encoder(model, features, split, 0, 12))
    real_valued = table["starting encoder, real-valued"]
    assert len(real_valued) == 4
    gallery = split.gallery(split.test)
    kinds = {"still": (split.test.stills, gallery.stills), "clip": (split.test.clips, gallery.clips)}
    for task, value in real_valued.items():
        query, searched = task.split("_to_")
        assert value == pytest.approx(cosine_map(features, kinds[query][0], kinds[searched][1]), abs=1e-6), task


def test_codes_of_the_starting_encoder_are_fitted_on_training_data(faces):
    model = starting()
    features, split = features_of(model, faces), ClosedSet(0.3, 0.0).split(faces, 0)
    table = mean_precisions(compare_encoder(model, features, split, 0, 12))
    names = ["real-valued", "LSH, 12 bits", "ITQ, 12 bits"]
    assert list(table) == [f"starting encoder, {name}" for name in names]
    assert mean_precisions(compare_encoder(model, features, split, 0, 12)) == table
    other = mean_precisions(compare_encoder(model, features, split, 1, 12))
    assert other["starting encoder, real-valued"] == table["starting encoder, real-valued"]
    assert other["starting encoder, LSH, 12 bits"] != table["starting encoder, LSH, 12 bits"]
    # More bits than features or items, and nothing to fit on.
    assert list(mean_precisions(compare_encoder(model, features, split, 0, 100))) == [
        "starting encoder, real-valued",
        "starting encoder, LSH, 100 bits",
    ]
    alone = LeaveOneOut().split(faces, 0)
    assert list(mean_precisions(compare_encoder(model, features, alone, 0, 12))) == ["starting encoder, real-valued"]


@pytest.mark.parametrize(("head", "n_bits"), [("LshHead", 12), ("ItqHead", 12), ("LdaItqHead", 5)])
def test_a_head_is_fitted_on_the_training_part_only(faces, head, n_bits):
    split = ClosedSet(0.3, 0.2).split(faces, 0)
    features = features_of(starting(), faces)
    trained = {row for clip in split.train.clips for row in clip.rows} | {still.row for still in split.train.stills}
    trained |= {still.row for still in split.pretrain_only}

    def fitted(changed):
        crops = features.crops.clone()
        crops[sorted(changed)] = torch.randn(len(changed), crops.shape[1], generator=torch.Generator().manual_seed(5))
        model = starting(n_bits, head)
        fit_head(model, faces.with_features(crops), split, 0)
        return model.head.both.weight.detach()

    expected = fitted(set())
    held_back = {row for part in (split.val, split.test) for clip in part.clips for row in clip.rows}
    held_back |= {still.row for part in (split.val, split.test) for still in part.stills}
    assert held_back - trained
    assert torch.equal(fitted(held_back - trained), expected)
    assert not torch.equal(fitted({min(trained)}), expected)


def test_head_is_fitted_on_stills_of_people_without_clips(tmp_path):
    root = make_folder(tmp_path, n_people=4)
    for clip in (root / "clips" / "p3").iterdir():
        for file in clip.iterdir():
            file.unlink()
        clip.rmdir()
    (root / "clips" / "p3").rmdir()
    faces = load_faces(read_folder(root, Skipped()), Skipped(), size=24)
    split = ClosedSet(0.3, 0.0).split(faces, 0)
    assert {still.person for still in split.pretrain_only} == {3}
    model = starting(3, "LdaItqHead")  # 3 bits need 4 people
    fit_head(model, features_of(model, faces), split, 0)
    assert model.head.both.weight.isfinite().all()


def test_starting_encoder_has_the_initial_weights_and_the_trust_of_the_model(tmp_path):
    import torchvision

    network = torchvision.models.mobilenet_v3_small()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    encoder = {"_target_": "facereel.models.TorchvisionEncoder", "name": "mobilenet_v3_small"}
    config = {**DEFAULT_CONFIG, "encoder": encoder, "pooling": {"_target_": "facereel.models.MeanPooling"}}
    config["preprocess"] = {**config["preprocess"], "flip_tta": True, "vertical_offset": 0.1}
    model = VideoHasher(config)
    assert starting_encoder(encoder, model) is None
    start = starting_encoder({**encoder, "weights": str(tmp_path / "weights.pt")}, model)
    assert torch.equal(start.encoder.network.features[0][0].weight, network.features[0][0].weight)
    assert (start.preprocess.flip_tta, start.preprocess.vertical_offset, start.n_bits) == (False, 0.1, 48)
    # A run's configuration may come from a stranger, as its checkpoint may.
    with pytest.raises(UserError, match="not trusted"):
        starting_encoder({"_target_": "antigravity.Encoder", "weights": "x"}, model)
