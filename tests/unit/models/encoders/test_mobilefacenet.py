import numpy as np
import pytest
import torch
from encoders import assert_every_parameter_learns, assert_saved_model_needs_no_file, configured_hasher, one_line_error
from torch.nn.functional import batch_norm, cosine_similarity, linear

from facereel.errors import UserError
from facereel.models import MobileFaceNet


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return MobileFaceNet().eval()


@pytest.fixture(scope="module")
def weights(shared):
    return shared / "weights" / "mobilefacenet.pt"


@pytest.fixture(scope="module")
def reference(shared):
    with np.load(shared / "weights" / "mobilefacenet_reference.npz") as file:
        return torch.from_numpy(file["rgb"]).permute(0, 3, 1, 2) / 255, torch.from_numpy(file["embedding"])


def hasher(weights, **preprocess):
    return configured_hasher("mobilefacenet", preprocess, weights=weights)


def test_configuration_gives_the_reference_embeddings(weights, reference):
    images, expected = reference
    assert expected.abs().max() > 0.1
    with torch.inference_mode():
        features = hasher(weights).features(images)
    assert (features - expected).abs().max() < 1e-4


def test_flip_tta_is_the_mean_over_both_images(weights, reference):
    images, expected = reference
    with torch.inference_mode():
        features = hasher(weights, flip_tta=True).features(images)
        mirrored = hasher(weights).features(images.flip(3))
    assert (features - (expected + mirrored) / 2).abs().max() < 1e-4
    assert (features - expected).abs().max() > 1e-3


def test_crops_at_the_reference_landmarks_give_nearly_the_reference_embeddings(weights, shared):
    """Cut by us, at the margin of the configuration: how the crops are aligned matters to what comes out."""
    from facereel.data import Row
    from facereel.data.crops import CropSettings, crop_rows

    with np.load(shared / "weights" / "mobilefacenet_reference.npz") as file:
        rows = [
            Row("p", "", "s", str(i), str(shared / "data" / "lfw" / path), landmarks=tuple(points.ravel().tolist()))
            for i, (path, points) in enumerate(zip(file["path"], file["landmarks"], strict=True))
        ]
        expected = torch.from_numpy(file["embedding"])
    model = hasher(weights)

    def similarity(margin):
        crops = torch.from_numpy(crop_rows(rows, CropSettings(size=112, margin=margin)).crops)
        with torch.inference_mode():
            return cosine_similarity(model.features(crops / 255), expected).mean().item()

    assert similarity(model.preprocess.margin) > 0.97
    assert similarity(1.6) < 0.9


def test_features_before_the_projection_project_to_the_embedding(weights, reference):
    images = torch.randn(3, 3, 112, 112)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    wide = MobileFaceNet(str(weights), embedding=False).eval()
    assert (wide.dim, MobileFaceNet().dim) == (512, 128)
    with torch.inference_mode():
        features, expected = wide(images), MobileFaceNet(str(weights)).eval()(images)
    assert features.shape == (3, 512)
    projected = linear(features, state["conv3.weight"].flatten(1), state["conv3.bias"])
    names = ("running_mean", "running_var", "weight", "bias")
    projected = batch_norm(projected, *(state[f"bn.{name}"] for name in names))
    assert (projected - expected).abs().max() < 1e-4


def test_the_parameters_have_the_names_of_the_public_file(weights, network):
    state = torch.load(weights, map_location="cpu", weights_only=True)
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in network.state_dict().items()
    }


def test_random_weights(network):
    with torch.inference_mode():
        first, second = network(torch.randn(2, 3, 112, 112))
    assert first.shape == (128,)
    assert first.isfinite().all()
    assert not torch.allclose(first, second)


def test_wrong_file_gives_a_one_line_error(tmp_path, network):
    torch.save({"conv1.0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save({**network.state_dict(), "bn.bias": torch.zeros(5)}, tmp_path / "shape.pt")
    (tmp_path / "text.pt").write_text("not weights")
    for name in ("other.pt", "shape.pt", "text.pt", "absent.pt"):
        with one_line_error(name):
            MobileFaceNet(str(tmp_path / name))


@pytest.mark.parametrize("embedding", [True, False])
@pytest.mark.parametrize("size", [96, 113, 128])
def test_other_image_size_raises(size, embedding):
    """The last depthwise convolution fits maps of 7 x 7; more would come out as another number of features."""
    with pytest.raises(UserError, match=rf"images of 97 to 112 pixels a side, not {size} x {size}; resize them to 112"):
        MobileFaceNet(embedding=embedding).eval()(torch.rand(1, 3, size, size))


@pytest.mark.parametrize("size", [97, 112])
def test_sizes_with_the_same_final_map_are_accepted(network, size):
    with torch.inference_mode():
        assert network(torch.rand(1, 3, size, size)).shape == (1, 128)


def test_a_saved_model_needs_no_weight_file(tmp_path, network):
    file = tmp_path / "weights.pt"
    torch.save(network.state_dict(), file)
    loaded = assert_saved_model_needs_no_file(hasher(file, flip_tta=True), file, tmp_path / "model")
    takes = loaded.preprocess
    assert (takes.size, takes.margin, takes.vertical_offset, takes.flip_tta) == (112, 1.2, 0.0, True)


@pytest.mark.parametrize("embedding", [True, False])
def test_every_parameter_learns(embedding):
    network = MobileFaceNet(embedding=embedding)
    # The one bias before a batch norm has no effect in training.
    assert_every_parameter_learns(network, torch.randn(4, 3, 112, 112), without_effect=["conv3.bias"])
    assert any(name.startswith("conv3") for name, _ in network.named_parameters()) == embedding
